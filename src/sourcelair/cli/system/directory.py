"""The data directory: who may use it, and the small files in it.

::

    DATA_DIR/            0700
      lair.lock          held by the running `lair up`; its process id
      running.json       where that one answers, for the command line
      installation       the id that every instance carries
      admin.token        0600, like service.token, waker.token and instances.key
      ceryx.db  servers.db  auth.db
      logs/              lair.log, access.log, and one file a server
      nginx/  agent/  instances/
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from pathlib import Path
from typing import Any

from sourcelair.cli.session import RUNNING
from sourcelair.errors import Conflict, InvalidInput, LairError


class DataDirectory:
    """The data directory of one installation.

    Args:
        path: made (mode 0700) by `prepare` where it is missing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: int | None = None

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

    def lock(self) -> None:
        """Take the directory for this process.

        Raises:
            Conflict: another process has it.
        """
        descriptor = os.open(self.path / "lair.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = os.read(descriptor, 32).decode(errors="replace").strip()
            os.close(descriptor)
            raise Conflict(
                f"`lair up` runs already on {self.path} (process {owner or 'unknown'}). "
                "`lair ls` shows its servers, `lair down` stops it.",
                process=int(owner) if owner.isdigit() else None,
            ) from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        self._lock = descriptor

    def unlock(self) -> None:
        """Let the next process in."""
        if self._lock is not None:
            os.ftruncate(self._lock, 0)
            os.close(self._lock)
            self._lock = None

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
        self._write(self.path / RUNNING, json.dumps(facts, indent=2) + "\n")

    def renounce(self) -> None:
        """Remove `running.json`."""
        (self.path / RUNNING).unlink(missing_ok=True)

    def _read_or_write(self, name: str, make: Any) -> str:
        path = self.path / name
        try:
            text = path.read_text().strip()
        except FileNotFoundError:
            text = ""
        except OSError as error:
            raise LairError(f"{path} can't be read: {error.strerror}.") from error
        if not text:
            text = make()
            self._write(path, text + "\n")
        return text

    def _write(self, path: Path, text: str) -> None:
        """Write a file whole or not at all, for this user alone."""
        temporary = path.with_name(path.name + ".new")
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except OSError as error:
            raise LairError(f"{path} can't be written: {error.strerror}.") from error
