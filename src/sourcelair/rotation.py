"""Logs that others append to are rotated by copy and truncate: nobody can tell them to open another file.

What is written between the end of the copy and the truncation is lost: microseconds, once in many megabytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from sourcelair.telemetry import get_logger

_log = get_logger(__name__)

KEEP = 3
"""Older logs that are kept."""

LOOK = 10.0
"""Seconds between looks at the length of logs."""

BLOCK = 64 << 10
"""Bytes that are copied at once."""

FULL = {errno.ENOSPC, errno.EDQUOT}
"""Errors of a disk on which there is no room."""


def older(log: Path, number: int) -> Path:
    """Return the name of a rotated log; 1 is the youngest."""
    return log.with_name(f"{log.name}.{number}")


def move_aside(log: Path, keep: int = KEEP) -> None:
    """Move the content of a log to `LOG.1`, and what is there to `LOG.2`. Blocks while it copies: call it in a thread.

    On a full disk the oldest are removed to make room, and at last the content is dropped.

    Args:
        log: the file that somebody appends to.
        keep: how many older ones are kept.

    Raises:
        OSError: it can't be read, or not be written for another reason.
    """
    for number in range(keep, 1, -1):
        with contextlib.suppress(FileNotFoundError):
            older(log, number - 1).rename(older(log, number))
    oldest = keep
    while not _copy(log, older(log, 1)):
        while oldest > 1 and not older(log, oldest).exists():
            oldest -= 1
        if oldest <= 1:
            break
        older(log, oldest).unlink()
    os.truncate(log, 0)


def _copy(log: Path, copy: Path) -> bool:
    """Copy in one piece or not at all. Returns False when the disk is full."""
    part = copy.with_name(copy.name + ".part")
    try:
        with log.open("rb") as source, open(part, "wb", opener=_private) as target:
            shutil.copyfileobj(source, target, BLOCK)
        part.rename(copy)
    except OSError as error:
        part.unlink(missing_ok=True)
        if error.errno not in FULL:
            raise
        return False
    return True


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


async def keep_short(logs: Sequence[Path], max_bytes: int, look: float = LOOK) -> None:
    """Rotate logs that grow above `max_bytes`, for ever. `look`: seconds between looks."""
    while True:
        for log in logs:
            try:
                if log.stat().st_size > max_bytes:
                    await asyncio.to_thread(move_aside, log)
            except FileNotFoundError:
                continue
            except OSError as error:
                _log.warning("log_not_rotated", log=str(log), reason=str(error))
        await asyncio.sleep(look)
