"""Processes by identity: a process id may be another's tomorrow, together with its start time it is not."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ProcessId:
    """One process. `start` is in clock ticks after boot (proc(5), `/proc/PID/stat`, field 22)."""

    pid: int
    start: int

    @property
    def alive(self) -> bool:
        """Whether it runs; one that has ended and waits for its parent (a zombie) does not."""
        return start_time(self.pid) == self.start

    def send(self, number: signal.Signals) -> bool:
        """Send a signal to this very process. Returns False when it is gone."""
        try:
            descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return False
        try:
            if not self.alive:
                return False
            signal.pidfd_send_signal(descriptor, number)
        except ProcessLookupError:
            return False
        finally:
            os.close(descriptor)
        return True

    async def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is gone. Returns False when it was still there after `timeout` seconds."""
        try:
            descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return True
        loop = asyncio.get_running_loop()
        gone = loop.create_future()
        loop.add_reader(descriptor, lambda: None if gone.done() else gone.set_result(None))
        try:
            if self.alive:
                async with asyncio.timeout(timeout):
                    await gone
        except TimeoutError:
            return False
        finally:
            loop.remove_reader(descriptor)
            os.close(descriptor)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, os.WNOHANG)  # noqa: ASYNC222 - it returns at once
        return True


def boot_id() -> str:
    """Return an id of this run of the machine."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def start_time(pid: int) -> int | None:
    """Return when a process was started, in clock ticks after boot; None when it is gone or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in {"Z", "X"} else int(fields[19])


def holders(file: Path) -> Iterator[ProcessId]:
    """Find the NGINX processes that have a file open, as far as we may look."""
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            if (folder / "comm").read_text().strip() not in {"nginx", "openresty"}:
                continue
            open_files = [os.readlink(link) for link in (folder / "fd").iterdir()]  # noqa: PTH115 - sockets are no paths
        except OSError:
            continue
        start = start_time(int(folder.name))
        if str(file) in open_files and start is not None:
            yield ProcessId(int(folder.name), start)
