"""The data directory: who may use it, and the small files in it.

::

    DATA_DIR/            0700
      lair.lock          held by the running `lair up`, with its process id; shared by processes that run a part each
      locks/             one of those each: ROLE-NUMBER.lock, with its process id
      running.json       where a process answers, for the command line; those with a part: running-ROLE-NUMBER.json
      installation       the id that every instance carries
      admin.token        0600, like service.token, waker.token and instances.key
      ceryx.db  servers.db  auth.db
      logs/              lair.log, access.log, and one file a server
      nginx/  agent/  instances/
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from sourcelair.cli.session import PARTS_RUNNING, RUNNING
from sourcelair.cli.system.roles import EVERYTHING, Role
from sourcelair.errors import Conflict, InvalidInput, LairError

LOCKS = "locks"

MOST_OF_A_ROLE = 9
"""Processes of one role on one data directory."""


class DataDirectory:
    """The data directory of one installation.

    Args:
        path: made (mode 0700) by `prepare` where it is missing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._locks: list[int] = []
        self._part = ""
        self._has_all = False

    @property
    def logs(self) -> Path:
        """Where logs lie."""
        return self.path / "logs"

    @property
    def log(self) -> Path:
        """The log of a `lair up` in the background."""
        return self.logs / "lair.log"

    def prepare(self) -> None:
        """Make the directory and those in it.

        Raises:
            InvalidInput: it can't be made, or belongs to somebody else.
        """
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self.path.stat().st_mode & 0o077:
                self._close_to_others()
            self.logs.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise InvalidInput(
                f"{self.path} can't be used: {error.strerror}. Choose another with --data-dir or LAIR_DATA_DIR."
            ) from error

    def _close_to_others(self) -> None:
        """Make it ours alone; never a directory that holds something else, such as `/tmp`."""
        if not (self.path / "installation").exists() and any(self.path.iterdir()):
            raise InvalidInput(
                f"{self.path} holds other things, and is open to other users. Choose a directory of its own with "
                "--data-dir or LAIR_DATA_DIR."
            )
        self.path.chmod(0o700)

    def lock(self, role: Role = EVERYTHING) -> None:
        """Take the directory for this process, or a part of it beside others that have another part.

        Raises:
            Conflict: another process has it.
        """
        whole = self.path / "lair.lock"
        if role.is_all:
            self._locks.append(_take(whole, fcntl.LOCK_EX) or _refuse(self.path, self.processes()))
            self._has_all = True
            return
        shared = _take(whole, fcntl.LOCK_SH) or _refuse(self.path, self.processes())
        self._locks.append(shared)
        (self.path / LOCKS).mkdir(mode=0o700, exist_ok=True)
        if role.proxy:  # one directory has one NGINX
            if (node := _take(self.path / LOCKS / "node.lock", fcntl.LOCK_EX)) is None:
                self.unlock()
                raise Conflict(f"A proxy node runs already on {self.path}: give another --data-dir.")
            self._locks.append(node)
        for number in range(1, MOST_OF_A_ROLE + 1):  # of one role there may be some, of which one acts
            name = f"{role.name}-{number}"
            if own := _take(self.path / LOCKS / f"{name}.lock", fcntl.LOCK_EX):
                self._locks.append(own)
                self._part = name
                return
        self.unlock()
        raise Conflict(
            f"`lair {role.name.replace('-', ' --role ')}` runs already on {self.path}: give another --data-dir."
        )

    def unlock(self) -> None:
        """Let the next process in."""
        for descriptor in reversed(self._locks):
            os.close(descriptor)
        self._locks.clear()
        self._part, self._has_all = "", False

    def processes(self) -> list[int]:
        """Return the processes that have this directory, or a part of it, as far as they have said so."""
        found = list[int]()
        for path in (self.path / "lair.lock", *sorted((self.path / LOCKS).glob("*.lock"))):
            with contextlib.suppress(OSError):
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError:
                    owner = os.read(descriptor, 32).decode(errors="replace").strip()
                    found += [int(owner)] if owner.isdigit() else []
                finally:
                    os.close(descriptor)
        return sorted(set(found))

    def has_parts(self) -> bool:
        """Return whether processes run that have a part each."""
        descriptor = os.open(self.path / "lair.lock", os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        else:
            return bool(self.processes())
        finally:
            os.close(descriptor)

    @property
    def identity(self) -> str:
        """What only one process has at a time: this directory, or a part of it, which must be locked."""
        return f"{self.installation()}/{self._part}" if self._part else self.installation()

    def installation(self) -> str:
        """Return this installation's id, made at the first call."""
        return self._read_or_write("installation", lambda: secrets.token_hex(8))

    def token(self, kind: str) -> str:
        """Return the token in `KIND.token`, made at the first call (mode 0600)."""
        return self._read_or_write(f"{kind}.token", lambda: f"lair_{kind}_{secrets.token_urlsafe(32)}")

    def instances_key(self) -> str:
        """Return the secret from which the tokens of instances are made, made at the first call (mode 0600)."""
        return self._read_or_write("instances.key", lambda: secrets.token_hex(32))

    def announce(self, facts: dict[str, Any]) -> None:
        """Say in `running.json` where the running system answers."""
        self._write(self._running, json.dumps(facts, indent=2) + "\n")

    def renounce(self) -> None:
        """Remove `running.json`."""
        self._running.unlink(missing_ok=True)
        if self._has_all:
            for path in self.path.glob(PARTS_RUNNING):  # of processes that were killed
                path.unlink(missing_ok=True)

    @property
    def _running(self) -> Path:
        return self.path / (f"running-{self._part}.json" if self._part else RUNNING)

    def _read_or_write(self, name: str, make: Callable[[], str]) -> str:
        """Return what a small file says, making it where it is missing or empty; of several who do, one wins."""
        path = self.path / name
        while True:
            try:
                if text := path.read_text().strip():
                    return text
                path.unlink()
            except FileNotFoundError:
                pass
            except OSError as error:
                raise LairError(f"{path} can't be read: {error.strerror}.") from error
            with contextlib.suppress(FileExistsError):
                self._write(path, make() + "\n", replace=False)

    def _write(self, path: Path, text: str, *, replace: bool = True) -> None:
        """Write a file whole or not at all, for this user alone.

        Raises:
            FileExistsError: it is there, and is not to be replaced.
            LairError: it can't be written.
        """
        temporary = path.with_name(f"{path.name}.{os.getpid()}")
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            if replace:
                temporary.replace(path)
            else:
                path.hardlink_to(temporary)
                temporary.unlink()
        except FileExistsError:
            temporary.unlink(missing_ok=True)
            raise
        except OSError as error:
            raise LairError(f"{path} can't be written: {error.strerror}.") from error


def _take(path: Path, how: int) -> int | None:
    """Lock a file, and write our process id to it where it is ours alone. None: another process has it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    if how == fcntl.LOCK_EX:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
    return descriptor


def _refuse(path: Path, processes: list[int]) -> NoReturn:
    shown = ", ".join(map(str, processes)) or "unknown"
    what = "Parts of it run" if len(processes) > 1 else "`lair up` runs"
    raise Conflict(
        f"{what} already on {path} (process {shown}). `lair ls` shows its servers, `lair down` stops it.",
        process=processes[0] if processes else None,
    )
