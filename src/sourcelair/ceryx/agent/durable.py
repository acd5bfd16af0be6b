"""Files that survive the machine: whole or not at all, and what tells one boot and one start from another."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from sourcelair.telemetry import get_logger

_log = get_logger(__name__)

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def boot_id() -> str:
    """Return what is new at every boot of this machine."""
    return _BOOT_ID.read_text().strip()


def write_all(file: int, data: bytes) -> None:
    """Write to an open file. Raises OSError, also where the disk took only a part."""
    if os.write(file, data) != len(data):
        raise OSError(errno.ENOSPC, "the disk took only a part of it")


def write_file(path: Path, content: bytes) -> None:
    """Write a file for this user alone, and sync it; its name is not synced. Raises OSError."""
    with path.open("wb") as file:
        path.chmod(0o600)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync_directory(path: Path) -> None:
    """Sync the names in a directory. Raises OSError."""
    directory = os.open(path, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def next_session(path: Path) -> int:
    """Return this start's session number, one more than the last, after writing it down durably. Blocks."""
    try:
        session = int(path.read_text()) + 1
    except (FileNotFoundError, ValueError):
        session = 1
    try:
        new = path.with_suffix(".new")
        write_file(new, str(session).encode())
        new.replace(path)
        sync_directory(path.parent)
    except OSError as error:
        _log.error("session_not_written", path=str(path), error=str(error))
    return session
