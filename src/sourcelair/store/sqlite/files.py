"""The store's file: its lock, its permissions, its schema and the way from older schemas to today's.

`NAME` is a WAL-mode database (so `NAME-wal` and `NAME-shm` lie beside it), `NAME.lock` is locked for as long as a
process has the store open. The lock is separate from SQLite's own since that lets several processes in: their
watches and leases would know nothing of each other.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

from sourcelair.errors import Conflict, LairError, OutOfSpace

APPLICATION_ID = 0x4C414952
"""`LAIR`: marks the file as ours (https://www.sqlite.org/pragma.html#pragma_application_id)."""

SCHEMA_VERSION = 1

SCHEMA = """
CREATE TABLE changes (
    revision INTEGER NOT NULL,
    key TEXT NOT NULL,
    value BLOB NOT NULL,
    create_revision INTEGER NOT NULL,
    version INTEGER NOT NULL,
    lease INTEGER,
    PRIMARY KEY (revision, key)
) WITHOUT ROWID;
CREATE INDEX changes_by_key ON changes (key, revision);
CREATE TABLE current (key TEXT PRIMARY KEY, revision INTEGER NOT NULL, lease INTEGER) WITHOUT ROWID;
CREATE INDEX current_by_lease ON current (lease) WHERE lease IS NOT NULL;
CREATE TABLE leases (id INTEGER PRIMARY KEY AUTOINCREMENT, ttl REAL NOT NULL);
CREATE TABLE compaction (revision INTEGER NOT NULL);
INSERT INTO compaction VALUES (0);
"""
"""`changes` is every change that is kept, a deletion has version 0; `current` points at the last one of each key that
exists. The store's revision needs no row of its own: it is that of the last change, or of the compaction."""

MIGRATIONS: dict[int, Callable[[sqlite3.Connection], None]] = {}
"""From a schema version to the function that makes the next one of it, inside a transaction."""

_BUSY_SECONDS = 5.0
"""Only another program (a backup, the sqlite3 shell) can make us wait for SQLite's own lock."""


class FileLock:
    """The right to open a store, held until `release` or the end of the process.

    Raises:
        Conflict: another process has it.
    """

    def __init__(self, path: Path) -> None:
        lock = path.with_name(path.name + ".lock")
        # flock rather than lockf: it also refuses a second opener in this very process.
        self._fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = os.read(self._fd, 32).decode(errors="replace").strip()
            os.close(self._fd)
            by = f" by process {owner}" if owner.isdigit() else ""
            raise Conflict(
                f"{path} is in use{by}: only one process can open it. "
                "Stop that one (`lair down`), or choose another data directory."
            ) from error
        try:
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, str(os.getpid()).encode(), 0)
        except OSError:
            pass  # the process id only makes a message better; a full disk must not keep a store closed

    def release(self) -> None:
        """Let the next one in."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def store_error(path: Path, error: sqlite3.Error) -> LairError:
    """Return what a failure of SQLite means for the caller, with the file's name in it.

    A full disk is `OutOfSpace`, and so is an I/O error: to the caller both say that nothing was written, and that it
    may work again once somebody has looked after the disk. (Of a commit whose outcome is not known, the writer tells
    by itself: see `is_unclear`.)
    """
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_FULL:
        return OutOfSpace(f"No space is left for {path}: nothing was written. Free some, and try again.")
    if code == sqlite3.SQLITE_IOERR:
        return OutOfSpace(f"The disk of {path} gave an I/O error: nothing was written ({error}).")
    if code in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
        return LairError(f"{path} is damaged, or no store of SourceLair ({error}). Restore it from a backup.")
    return LairError(f"{path} can't be used: {error}.")


def is_unclear(error: sqlite3.Error) -> bool:
    """Tell whether a COMMIT that failed so may be whole on the disk nevertheless, and come back when it is opened anew.

    In WAL mode a commit is a row of frames of which the last one makes it count, and then a sync. Where a frame was not
    written it does not count; where only what followed failed, it does.
    """
    code = getattr(error, "sqlite_errorcode", 0)
    return code & 0xFF == sqlite3.SQLITE_IOERR and code != sqlite3.SQLITE_IOERR_WRITE


def connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    """Open a connection that any thread may use, one at a time; transactions are begun and ended by hand."""
    connection = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    if read_only:
        connection.execute("PRAGMA query_only = ON")
    return connection


def prepare_file(path: Path) -> None:
    """Make the file and its directory, for this user alone, where they are missing.

    Raises:
        LairError: it can't be made.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # SQLite gives its -wal and -shm files the mode of the main one, so this covers all three.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        path.chmod(0o600)
    except OSError as error:
        raise LairError(f"{path} can't be opened: {error.strerror}. Choose another data directory.") from error


def open_database(path: Path, *, max_bytes: int | None = None) -> sqlite3.Connection:
    """Open the file for writing, with today's schema in it.

    Args:
        path: the file.
        max_bytes: the size beyond which the file does not grow; None leaves that to the disk.

    Raises:
        LairError: it is no store of ours, or one of a newer version, or can't be read.
        OutOfSpace: the disk is full.
    """
    connection = connect(path)
    try:
        _adopt(connection, path)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")  # in WAL mode: an fsync in every commit
        connection.execute("PRAGMA journal_size_limit = 67108864")
        _migrate(connection, path)
        if max_bytes is not None:
            (page_size,) = connection.execute("PRAGMA page_size").fetchone()
            connection.execute(f"PRAGMA max_page_count = {max(1, max_bytes // page_size)}")
    except sqlite3.Error as error:
        connection.close()
        raise store_error(path, error) from error
    except BaseException:
        connection.close()
        raise
    return connection


def _adopt(connection: sqlite3.Connection, path: Path) -> None:
    """Refuse a database of somebody else, before anything in it is touched."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if application != APPLICATION_ID and tables:
        raise LairError(f"{path} is a database of another program. Choose another data directory.")


def _migrate(connection: sqlite3.Connection, path: Path) -> None:
    """Bring the schema to `SCHEMA_VERSION`, in one transaction; a new file begins at 0."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > SCHEMA_VERSION:
        raise LairError(
            f"{path} was written by a newer SourceLair (schema {version}; this one knows {SCHEMA_VERSION}). "
            "Install that version again, or restore a backup from before the upgrade."
        )
    if version == SCHEMA_VERSION:
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        if version == 0:
            for statement in SCHEMA.split(";"):
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        else:
            for step in range(version, SCHEMA_VERSION):
                MIGRATIONS[step](connection)
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
