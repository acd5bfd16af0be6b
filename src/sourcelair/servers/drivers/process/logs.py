"""Logs of instances: files that the instances append to themselves, so that nobody has to live for them to go on.

They are rotated by copy and truncate, since nobody can tell an instance to open another file. What it writes between
the end of the copy and the truncation is lost: microseconds, once in `max_bytes`.

A full disk must not stop an instance: many programs fail a request whose line they can't log. So some space behind the
end of each log is reserved (fallocate(2)) while its instance runs. On a disk that is full, `rotate` drops what was
written and reserves anew; only what writes more than `RESERVE` between two calls of it sees ENOSPC. An instance
for which nothing can be reserved when it starts logs to `/dev/null`.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import os
import threading
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import BinaryIO

from sourcelair.rotation import FULL, KEEP, move_aside, older

BLOCK = 64 << 10
"""Bytes that are read at once."""

TAIL = 1 << 20
"""Bytes that the last lines may have together; older ones are left out."""

FOLLOW_INTERVAL = 0.25
"""Seconds between two looks at a log that is followed."""

RESERVE = 256 << 10
"""Bytes on the disk that are kept for what a running instance writes next."""

_LOCKS = tuple(threading.Lock() for _ in range(64))
"""Of this process, which alone rotates and follows. None is on a file: its instance could hold that for ever."""

_KEEP_SIZE = 1  # FALLOC_FL_KEEP_SIZE: space is taken, and the file ends where it did
_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


def _lock(log: Path) -> threading.Lock:
    """Return the lock of a log; some share theirs, since there may be any number of logs."""
    return _LOCKS[hash(log) % len(_LOCKS)]


def open_log(log: Path) -> tuple[int, str | None]:
    """Open a log for an instance to append to (mode 0600).

    Returns:
        the file, and None; or `/dev/null`, and why it is that.
    """
    try:
        log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if _reserve(file):
            return file, None
        os.close(file)
        why = os.strerror(errno.ENOSPC)
    except OSError as error:
        why = error.strerror or str(error)
    return os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC), f"nothing is logged: {why}"


def _reserve(file: int) -> bool:
    """Take space behind the end of a log. Returns False when the disk is full."""
    if _libc.fallocate(file, _KEEP_SIZE, os.fstat(file).st_size, RESERVE) == 0:
        return True
    if ctypes.get_errno() in FULL:
        return False
    disk = os.fstatvfs(file)  # This file system reserves nothing: look at least whether there is any space now.
    return disk.f_frsize * disk.f_bavail >= RESERVE


def release(log: Path) -> None:
    """Give back what was reserved for a log whose instance has ended."""
    with contextlib.suppress(OSError):
        os.truncate(log, log.stat().st_size)


def _is_starved(log: Path) -> bool:
    """Return whether the disk is full, and little is left of what was reserved for this log."""
    stat = log.stat()
    disk = os.statvfs(log)
    left = stat.st_blocks * 512 - stat.st_size
    return stat.st_size > 0 and left < RESERVE // 2 and disk.f_frsize * disk.f_bavail < RESERVE


def rotate(log: Path, max_bytes: int, keep: int = KEEP) -> bool:
    """Move the content of a log that is above `max_bytes` to `LOG.1`. Blocks while it copies: call it in a thread.

    On a full disk the oldest are removed to make room, and at last the content is dropped, long before `max_bytes`.
    Call it every few seconds for each instance that runs.

    Args:
        log: the file that an instance appends to.
        max_bytes: its size from which it is rotated.
        keep: how many older ones are kept.

    Returns:
        whether it was rotated.
    """
    try:
        if log.stat().st_size <= max_bytes and not _is_starved(log):
            return False
    except FileNotFoundError:
        return False
    with _lock(log), log.open("r+b") as file:  # Nobody who follows it reads between the copy and the truncation.
        move_aside(log, keep)
        _reserve(file.fileno())
    return True


def remove(log: Path, keep: int = KEEP) -> None:
    """Remove a log and its older ones."""
    for path in (log, *(older(log, number) for number in range(1, keep + 1))):
        path.unlink(missing_ok=True)


def tail(log: Path, lines: int) -> bytes:
    """Return the last lines of a log (and of the one before it, where it has too few), at most `TAIL` bytes."""
    text = _tail(log, lines)
    missing = lines - text.count(b"\n")
    if missing > 0 and len(text) < TAIL:
        text = _tail(older(log, 1), missing) + text
    return text


def _tail(path: Path, lines: int, end: int | None = None) -> bytes:
    if lines <= 0:
        return b""
    try:
        with path.open("rb") as file:
            position = file.seek(0, os.SEEK_END) if end is None else end
            text = b""
            while position > 0 and len(text) < TAIL:
                start = max(0, position - BLOCK)
                file.seek(start)
                text = file.read(position - start) + text
                position = start
                if text.count(b"\n") > lines:
                    break
    except FileNotFoundError:
        return b""
    return b"".join(text.splitlines(keepends=True)[-lines:])


class _Reader:
    """Reads on from a position in a log, over its rotations."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._file: BinaryIO | None = None
        self._older = self._identify()
        self._position = self._size()

    def _identify(self) -> tuple[int, int] | None:
        try:
            stat = older(self._log, 1).stat()
        except FileNotFoundError:
            return None
        return stat.st_ino, stat.st_mtime_ns

    def _opened(self) -> BinaryIO | None:
        """Open the log as soon as it is there, and keep it open: one that is removed is read to its end."""
        if self._file is None:
            with contextlib.suppress(FileNotFoundError):
                self._file = self._log.open("rb")
        return self._file

    def _size(self) -> int:
        file = self._opened()
        return 0 if file is None else os.fstat(file.fileno()).st_size

    def close(self) -> None:
        """Close the log."""
        if self._file is not None:
            self._file.close()

    def start(self, lines: int, begin: int | None) -> bytes:
        text = _tail(self._log, lines, self._position)
        if begin is not None:
            wanted = self._position - begin if begin <= self._position else len(text)
            return text[max(0, len(text) - wanted) :]
        missing = lines - text.count(b"\n")
        return (_tail(older(self._log, 1), missing) if missing > 0 else b"") + text

    def read(self) -> bytes:
        """Return what came, a block at most; nothing when there is nothing new."""
        with _lock(self._log):
            rotated = self._identify()
            if rotated is not None and rotated != self._older:
                with contextlib.suppress(FileNotFoundError), older(self._log, 1).open("rb") as before:
                    text = self._block(before)
                    if text:
                        return text
                self._older = rotated
                self._position = 0
            elif self._size() < self._position:
                self._position = 0
            file = self._opened()
            return b"" if file is None else self._block(file)

    def _block(self, file: BinaryIO) -> bytes:
        text = os.pread(
            file.fileno(), BLOCK, self._position
        )  # past any buffer: what is there may be cut and written anew
        self._position += len(text)
        return text


async def read_log(
    log: Path, *, lines: int, follow: bool, until: asyncio.Event | None = None, begin: int | None = None
) -> AsyncGenerator[bytes, None]:
    """Give the last lines of a log as blocks of bytes, and with `follow` all that comes.

    Args:
        log: may be removed meanwhile; it is read to its end.
        lines: to begin with.
        follow: go on with what comes.
        until: is set once nothing comes any more; without it there is no end.
        begin: byte before which nothing is given, with `follow`; a log that is shorter by now was rotated since.
    """
    if not follow:
        text = await asyncio.to_thread(tail, log, lines)
        if text:
            yield text
        return
    reader = await asyncio.to_thread(_Reader, log)
    try:
        text, ended = await asyncio.to_thread(reader.start, lines, begin), False
        while text or not ended:
            if text:
                yield text
            else:
                ended = await _is_set(until)
            text = await asyncio.to_thread(reader.read)
    finally:
        reader.close()


async def _is_set(event: asyncio.Event | None) -> bool:
    """Wait for an event, a moment at most; return whether it is set."""
    if event is None:
        await asyncio.sleep(FOLLOW_INTERVAL)
        return False
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(FOLLOW_INTERVAL):
            await event.wait()
    return event.is_set()
