"""NGINX's process: started or adopted, watched, started again when it dies, and left running when we end.

It must survive the control plane: it has a session of its own, holds no pipe of ours, and is found again by process id,
start time and boot id. Workers whose master was killed go on serving from a table that nobody updates; before every
start they are told to finish, and a new NGINX counts them until they are gone (see `counts.lua`).
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import resource
import signal
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from sourcelair.ceryx.nginx.places import body_directory, control_directory, make_place, remove_outside, worker_user
from sourcelair.ceryx.nginx.processes import ProcessId, boot_id, holders, start_time
from sourcelair.ceryx.nginx.programs import Program, find_program
from sourcelair.ceryx.nginx.render import Place, fingerprint, render
from sourcelair.errors import Conflict, LairError
from sourcelair.rotation import keep_short
from sourcelair.settings import Settings, split_address
from sourcelair.telemetry import get_logger

_log = get_logger(__name__)

SCHEMA = 1
START_TIMEOUT = 15.0
"""Seconds from spawning NGINX to the first answer on its control socket."""
QUIT_TIMEOUT = 10.0
"""Seconds in which orphaned workers must close their listening sockets, before they are killed."""
STOP_TIMEOUT = 5.0
"""Seconds that NGINX has to end when everything is stopped."""
LOCK_TIMEOUT = 30.0
"""Seconds to wait for another control plane that is just starting the same NGINX."""
LOOK = 0.005
"""Seconds between looks at what sends no event: a listening socket, another's lock."""
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 5.0
"""Seconds before NGINX is started again: the first time, and the longest after doubling."""
STEADY = 30.0
"""Seconds after which an NGINX counts as sound, and the pause starts small again."""
MOST_OPEN_FILES = 1 << 16


class NginxEngine:
    """The NGINX of one proxy node.

    Args:
        settings: `listen`, `nginx_workers`, timeouts and limits.
        directory: its own; the caller may not put anything there.
        stall: tests only: seconds that a worker may spend between looking a host up and counting the request.

    Raises:
        LairError: there is no place for its files.
    """

    def __init__(self, settings: Settings, directory: Path, *, stall: float = 0.0) -> None:
        self._settings = settings
        self._directory = directory.absolute()
        self._stall = stall
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._state_file = self._directory / "engine.json"
        self._process: ProcessId | None = None
        self._stopped = False
        self.started = asyncio.Event()
        """Set while NGINX runs and answers on its control socket."""
        state = self._read_state()
        self._control = Path(state["control"]) if state else control_directory(self._directory)
        self._bodies = Path(state["bodies"]) if state else body_directory(self._directory, worker_user())
        self._fingerprint = str(state["fingerprint"]) if state else ""
        if state and state["boot_id"] == boot_id() and state["pid"]:
            found = ProcessId(state["pid"], state["start"])
            self._process = found if found.alive else None
        self._write_state()

    @property
    def control_socket(self) -> Path:
        """The Unix socket for `NginxControl`."""
        return self._control / "control.sock"

    @property
    def pid(self) -> int | None:
        """The process id of NGINX's master, None while it does not run."""
        return self._process.pid if self._process and self._process.alive else None

    def _read_state(self) -> dict[str, Any] | None:
        try:
            state = json.loads(self._state_file.read_text())
        except (FileNotFoundError, ValueError):
            return None
        if not isinstance(state, dict) or state.get("schema", 0) > SCHEMA:
            raise LairError(f"{self._state_file} is of a newer version of SourceLair: use that one.")
        usable = Path(state["control"]).parent.is_dir() and Path(state["bodies"]).parent.is_dir()
        return state if usable else None

    def _write_state(self) -> None:
        process = self._process
        state = {
            "schema": SCHEMA,
            "pid": process.pid if process else None,
            "start": process.start if process else None,
            "boot_id": boot_id(),
            "fingerprint": self._fingerprint,
            "control": str(self._control),
            "bodies": str(self._bodies),
        }
        _write(self._state_file, json.dumps(state))

    @contextlib.asynccontextmanager
    async def _locked(self) -> AsyncIterator[None]:
        """Hold the lock on the directory: nobody else starts or stops this NGINX meanwhile."""
        with (self._directory / "engine.lock").open("w") as file:
            deadline = time.monotonic() + LOCK_TIMEOUT
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise Conflict(f"Another process is starting the NGINX of {self._directory}.") from None
                    await asyncio.sleep(LOOK)
            yield

    async def run(self) -> None:
        """Keep NGINX running, for ever. When this is cancelled NGINX goes on; `stop` ends it.

        Raises:
            LairError: it can't be started at all: not installed, address taken, a setting that it refuses, a full disk.
        """
        try:
            await self._ensure()
        except OSError as error:
            raise LairError(f"NGINX's files can't be written in {self._directory}: {error.strerror}.") from error
        logs = [self._settings.data_dir / "logs" / "access.log", self._directory / "logs" / "error.log"]
        async with asyncio.TaskGroup() as tasks:
            rotating = tasks.create_task(keep_short(logs, self._settings.access_log_max_bytes))
            await self._keep_running()
            rotating.cancel()

    async def _keep_running(self) -> None:
        pause = FIRST_PAUSE
        while not self._stopped:
            process, since = self._process, time.monotonic()
            if process is not None:
                await process.wait()
                self.started.clear()
                if self._stopped:
                    return
                _log.warning("nginx_died", pid=process.pid)
            pause = FIRST_PAUSE if time.monotonic() - since > STEADY else min(pause * 2, LONGEST_PAUSE)
            await asyncio.sleep(pause)
            try:
                await self._ensure()
            except LairError as error:
                _log.error("nginx_not_started", reason=error.detail)
            except OSError as error:  # a full disk, which may have room again
                _log.error("nginx_not_started", reason=str(error))

    async def _ensure(self) -> None:
        """Adopt the NGINX that runs with these very settings, or start one."""
        async with self._locked():
            program = find_program(self._settings)
            place = make_place(self._settings, self._directory, self._control, self._bodies)
            wanted = fingerprint(self._render(program, place, ()), program)
            state = self._read_state()
            if state and state["pid"] and state["boot_id"] == boot_id():
                found = ProcessId(state["pid"], state["start"])
                self._process = found if found.alive else None
            if self._process and self._process.alive and state and state["fingerprint"] == wanted:
                self._fingerprint = wanted
                _log.info("nginx_adopted", pid=self._process.pid)
            else:
                orphans = await self._retire(place)
                self._fingerprint = wanted
                await self._start(program, place, self._render(program, place, orphans))
            self.started.set()

    def _render(self, program: Program, place: Place, orphans: tuple[tuple[int, int], ...]) -> str:
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        open_files = MOST_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_OPEN_FILES)
        return render(self._settings, program, place, open_files=open_files, orphans=orphans, stall=self._stall)

    async def _retire(self, place: Place) -> tuple[tuple[int, int], ...]:
        """Let every older NGINX of this directory finish what it has open, and wait until it listens no more.

        Returns:
            those that are still there, as process id and start time.
        """
        old = list(holders(place.error_log))
        if self._process and self._process.alive and self._process not in old:
            old.append(self._process)
        for process in old:
            process.send(signal.SIGQUIT)
        if old:
            _log.warning("nginx_retired", pids=[process.pid for process in old])
        deadline = time.monotonic() + QUIT_TIMEOUT
        while (taken := _why_taken(self._settings.listen)) and any(process.alive for process in old):
            if time.monotonic() > deadline:
                for process in old:
                    process.send(signal.SIGKILL)
            await asyncio.sleep(LOOK)
        if taken and _why_taken(self._settings.listen):
            raise Conflict(taken)
        place.control.unlink(missing_ok=True)
        return tuple((process.pid, process.start) for process in old if process.alive)

    async def _start(self, program: Program, place: Place, config: str) -> None:
        _write(place.config, config)
        log = place.error_log.with_name("nginx.log")
        actions = [
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ]
        command = [str(program.path), "-p", str(self._directory), "-c", str(place.config), "-e", str(place.error_log)]
        environment = {"PATH": os.environ.get("PATH", os.defpath), "LANG": "C.UTF-8"}
        pid = os.posix_spawn(  # noqa: ASYNC221 - it returns at once, and asyncio's own kills the child when we end
            program.path, command, environment, file_actions=actions, setsid=True, setsigmask=[],
            setsigdef=[signal.SIGINT, signal.SIGPIPE, signal.SIGTERM, signal.SIGXFSZ],
        )  # fmt: skip
        start = start_time(pid)
        self._process = ProcessId(pid, start or 0)
        try:
            self._write_state()
        except OSError as error:  # it serves all the same; a later control plane finds it by the log that it holds
            _log.warning("nginx_not_noted", pid=pid, reason=str(error))
        deadline = time.monotonic() + START_TIMEOUT
        while not _connects(place.control):
            if not self._process.alive or time.monotonic() > deadline:
                self._process.send(signal.SIGKILL)
                await self._process.wait(STOP_TIMEOUT)
                self._process = None
                self._write_state()
                raise LairError(f"NGINX did not start: {_last_complaint(log, place.error_log)}")
            await asyncio.sleep(LOOK)
        _log.info("nginx_started", pid=pid, listen=self._settings.listen)

    async def stop(self) -> None:
        """End NGINX at once, open requests too, and workers that it left behind. Does nothing where none runs."""
        self._stopped = True
        self.started.clear()
        async with self._locked():
            left = list(holders((self._directory / "logs").resolve() / "error.log"))
            if self._process and self._process not in left:
                left.append(self._process)
            for number in (signal.SIGTERM, signal.SIGKILL):
                left = [process for process in left if process.send(number)]
                await asyncio.gather(*(process.wait(STOP_TIMEOUT) for process in left))
            self._process = None
            self.control_socket.unlink(missing_ok=True)
            remove_outside(self._directory, self._control, self._bodies)
            self._state_file.unlink(missing_ok=True)


def _write(file: Path, text: str) -> None:
    """Write a file whole or not at all; one that says that already is left alone, so that a full disk is no matter."""
    with contextlib.suppress(OSError, ValueError):
        if file.read_text() == text:
            return
    new = file.with_name(f"{file.name}.new")
    new.write_text(text)
    new.replace(file)


def _why_taken(address: str) -> str | None:
    """Return why nobody can listen on an address now, or None."""
    host, port = split_address(address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except PermissionError:
            return f"listen: ports below 1024 need root, and {address} is one: use another, such as 127.0.0.1:8080."
        except OSError as error:
            return f"listen: {address} can't be used ({error.strerror}): is another program listening there?"
    return None


def _connects(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


def _last_complaint(*logs: Path) -> str:
    """Return the last line in which NGINX said why it gave up."""
    for log in logs:
        with contextlib.suppress(OSError):
            lines = log.read_text(errors="replace").splitlines()[-50:]
            for line in reversed(lines):
                if "[emerg]" in line or "[alert]" in line:
                    return line.rpartition("] ")[2]
    return f"see {logs[-1]}"
