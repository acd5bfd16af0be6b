"""Where a measurement takes place: a folder, free ports, and processes that are gone at its end, whatever happened.

The proxy under test has one processor for itself; the load and the upstream share the other ones.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

LONGEST = 1800.0
"""Seconds that any process of a measurement may run."""

STOP = 5.0
"""Seconds that a process has to end before it is killed."""

PORTS = range(31000, 32700)
"""For proxies and their control; below the ephemeral ports, and apart from those of the tests."""

PROXY_CPU = 0
LOAD_CPUS = tuple(range(1, os.cpu_count() or 1)) or (0,)


class Stage:
    """One measurement's place; made by `stage()`."""

    def __init__(self, directory: Path, stack: contextlib.ExitStack) -> None:
        self.directory = directory
        self._stack = stack
        # In any order: of two runs at once neither may get what the other has not listened on yet.
        self._ports = iter(random.sample(PORTS, len(PORTS)))

    def free_port(self) -> int:
        """Return a port on which nobody listens, and that was not given before."""
        for port in self._ports:
            with socket.socket() as probe, contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return port
        raise RuntimeError("no port is free")

    def folder(self, name: str) -> Path:
        """Return a new folder."""
        folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.directory))
        folder.chmod(0o755)
        return folder

    def spawn(
        self,
        command: Sequence[str],
        *,
        cpus: Sequence[int] = (PROXY_CPU,),
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start a process on these processors; with all that comes from it, it is ended with the stage.

        What it writes is in `output.log` of its folder.
        """
        folder = cwd or self.directory
        with (folder / "output.log").open("ab") as output:
            process = subprocess.Popen(
                ["taskset", "-c", ",".join(map(str, cpus)), *command],
                cwd=folder,
                env={**os.environ, **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        bound = threading.Timer(LONGEST, _kill, [process])
        bound.daemon = True
        bound.start()
        self._stack.callback(bound.cancel)
        self._stack.callback(end, process)
        return process

    def enter(self, context: contextlib.AbstractContextManager[object]) -> object:
        """Enter something that is left with the stage."""
        return self._stack.enter_context(context)


@contextlib.contextmanager
def stage() -> Iterator[Stage]:
    """Give a stage, and clear it away."""
    with tempfile.TemporaryDirectory(prefix="lair-bench-") as name, contextlib.ExitStack() as stack:
        Path(name).chmod(0o755)
        yield Stage(Path(name), stack)


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process with its session: asked first, then killed."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP)
    _kill(process)
    process.wait()


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def until_accepts(port: int, process: subprocess.Popen[bytes] | None = None, timeout: float = 60.0) -> None:
    """Wait until somebody listens on a port of loopback.

    Raises:
        RuntimeError: nobody does in time, or the process has ended.
    """
    deadline = time.monotonic() + timeout
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        if process is not None and process.poll() is not None:
            raise RuntimeError(f"{process.args!r} ended with {process.returncode}")
        if time.monotonic() > deadline:
            raise RuntimeError(f"nobody listens on port {port} after {timeout:g} s")
        time.sleep(0.02)
