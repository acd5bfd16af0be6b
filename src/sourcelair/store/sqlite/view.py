"""Reading a store that another process may have open: SQLite lets us in, and neither of us waits for the other.

The lock beside the file keeps out whoever would write: their watches and leases would know nothing of each other. Who
only reads needs none. In WAL mode a reader sees what was committed; its transactions are short here, a page each, so
that the writer can empty its log.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from sourcelair.errors import LairError, NotFound
from sourcelair.store.base import Entry, Page
from sourcelair.store.sqlite.files import APPLICATION_ID, SCHEMA_VERSION, connect, store_error
from sourcelair.store.sqlite.reader import Reader
from sourcelair.store.sqlite.turns import Turns


class SqliteView:
    """A store's file, to be read only. It belongs to the event loop that opened it.

    Args:
        path: of the file.

    Raises:
        NotFound: there is no such file.
        LairError: it is no store of ours, or of another version, or can't be read.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():  # SQLite would make one
            raise NotFound(f"There is no store {path}.")
        try:
            _check(path)
            self._turns = Turns()
            self._reader = Reader(path, self._turns)
        except sqlite3.Error as error:
            raise store_error(path, error) from error

    @property
    def page_size(self) -> int:
        """See `Store.page_size`: short reads let the writer empty its log."""
        return 500

    async def revision(self) -> int:
        """See `Store.revision`."""
        return await self._reader.revision()

    async def get(self, key: str) -> Entry | None:
        """See `Store.get`."""
        return await self._reader.get(key)

    async def list(self, prefix: str, *, revision: int | None = None, start_after: str = "", limit: int = 0) -> Page:
        """See `Store.list`."""
        return await self._reader.page(prefix, revision, start_after, limit)

    async def close(self) -> None:
        """See `Store.close`."""
        await self._reader.close()
        self._turns.close()


def _check(path: Path) -> None:
    connection = connect(path, read_only=True)
    try:
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
    finally:
        connection.close()
    if application != APPLICATION_ID:
        raise LairError(f"{path} is no store of SourceLair.")
    if version != SCHEMA_VERSION:
        raise LairError(
            f"{path} has schema {version}, and this version of SourceLair reads {SCHEMA_VERSION}: "
            "let the version that is to run it open it once, with `lair up`."
        )
