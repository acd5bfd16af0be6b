"""The one thread that reads. In WAL mode it never waits for the writer, nor the writer for it.

It sees what is committed, and a write is answered after its commit: so everybody reads their own writes.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

from sourcelair.errors import HistoryCompacted, InvalidInput, Unavailable
from sourcelair.store.base import Change, Entry, Event, Page
from sourcelair.store.limits import MAX_INTEGER, prefix_end
from sourcelair.store.sqlite.files import connect, store_error
from sourcelair.store.sqlite.rows import COLUMNS, REVISION, entry, qualified
from sourcelair.store.sqlite.turns import Turns

T = TypeVar("T")

REPLAY_PAGE = 1000
"""Events that are read from history at once, about: a revision is never cut."""

_RANGE = "key >= :first AND key < :end"
_GET = f"SELECT {qualified('changes')} FROM current JOIN changes USING (key, revision) WHERE key = ?"  # noqa: S608
_LIST = f"""
SELECT {qualified("changes")} FROM current JOIN changes USING (key, revision)
WHERE {_RANGE} ORDER BY key LIMIT :limit
"""  # noqa: S608 - constants only
# Nothing is sorted or put aside: a page ends as soon as it is full. Beside max() a column is that of the newest row.
_LIST_AS_OF = f"""
SELECT key, value, create_revision, max(revision), version, lease FROM changes
WHERE {_RANGE} AND revision <= :revision GROUP BY key HAVING version > 0 ORDER BY key LIMIT :limit
"""  # noqa: S608
# The unary plus keeps SQLite from walking the index by key: changes are wanted in the order of their revisions.
_CHANGES = f"""
SELECT {qualified("changes")}, {qualified("before")} FROM changes
LEFT JOIN changes AS before ON before.key = changes.key AND before.revision =
    (SELECT max(revision) FROM changes AS older WHERE older.key = changes.key AND older.revision < changes.revision)
WHERE changes.revision >= :revision AND +changes.key >= :first AND +changes.key < :end
ORDER BY changes.revision, changes.key
"""  # noqa: S608
_WIDTH = COLUMNS.count(",") + 1
_LAST = b""
"""The end of the range where a prefix has none: SQLite sorts every blob after every text."""


@dataclass(frozen=True, slots=True)
class History:
    """The changes of a prefix in the revisions from the one that was asked for up to and including `upto`."""

    changes: tuple[Change, ...]
    upto: int


class Reader:
    """Owns the reading connection, from `open` to `close`.

    Args:
        path: of the file, which exists and has today's schema.
        turns: is told of every read that waits.
    """

    def __init__(self, path: Path, turns: Turns) -> None:
        self._path = path
        self._turns = turns
        self._connection = connect(path, read_only=True)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"store-{path.name}-reader")
        self._closed = False

    async def revision(self) -> int:
        """Return the current revision."""
        return await self._run(lambda sql: int(sql(REVISION).fetchone()[0]))

    async def get(self, key: str) -> Entry | None:
        """Return the key as it stands."""
        return await self._run(lambda sql: entry(sql(_GET, (key,)).fetchone()))

    async def page(self, prefix: str, revision: int | None, start_after: str, limit: int) -> Page:
        """Return the keys under `prefix`; see `Store.list`."""
        values: dict[str, Any] = {
            # One bound: of two SQLite would seek the first, and walk from there.
            "first": max(prefix, f"{start_after}\0") if start_after else prefix,
            "end": prefix_end(prefix) or _LAST,
            "limit": min(limit, MAX_INTEGER - 1) + 1 if limit else -1,
        }

        def read(sql: Callable[..., sqlite3.Cursor]) -> Page:
            now = int(sql(REVISION).fetchone()[0])
            if revision is not None and revision != now:
                if revision < _compacted(sql):
                    raise HistoryCompacted(f"Revision {revision} can't be read any more: list the current one.")
                if revision > now:
                    raise InvalidInput(f"revision: {revision} is yet to come; the store is at {now}.")
                rows = sql(_LIST_AS_OF, values | {"revision": revision}).fetchall()
            else:
                rows = sql(_LIST, values).fetchall()
            more = bool(limit) and len(rows) > limit
            entries = tuple(Entry(*row) for row in (rows[:limit] if more else rows))
            return Page(entries, now if revision is None else revision, more)

        return await self._run(read)

    async def history(self, prefix: str, revision: int) -> History:
        """Return the changes under `prefix` from `revision` on, whole revisions, about REPLAY_PAGE events of them.

        Raises:
            HistoryCompacted: they are no longer kept.
        """
        values = {"revision": revision, "first": prefix, "end": prefix_end(prefix) or _LAST}

        def read(sql: Callable[..., sqlite3.Cursor]) -> History:
            if revision <= _compacted(sql):
                raise HistoryCompacted(
                    f"Changes of revision {revision} are no longer kept: list, and watch from there."
                )
            upto = int(sql(REVISION).fetchone()[0])
            changes: list[Change] = []
            count = 0
            with closing(sql(_CHANGES, values)) as cursor:
                for number, rows in groupby(cursor, key=lambda row: int(row[3])):
                    changes.append(Change(number, tuple(_event(row) for row in rows)))
                    count += len(changes[-1].events)
                    if count >= REPLAY_PAGE:
                        return History(tuple(changes), number)
            return History(tuple(changes), upto)

        return await self._run(read)

    async def close(self) -> None:
        """Finish what is being read, then end the thread and close the connection."""
        if self._closed:
            return
        self._closed = True
        await asyncio.get_running_loop().run_in_executor(self._thread, self._connection.close)
        self._thread.shutdown(wait=False)

    async def _run(self, read: Callable[[Callable[..., sqlite3.Cursor]], T]) -> T:
        if self._closed:
            raise Unavailable(f"The store {self._path} is closed.")
        with self._turns:
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._read, read)

    def _read(self, read: Callable[[Callable[..., sqlite3.Cursor]], T]) -> T:
        try:
            with _snapshot(self._connection) as sql:
                return read(sql)
        except sqlite3.Error as error:
            raise store_error(self._path, error) from error


@contextmanager
def _snapshot(connection: sqlite3.Connection) -> Iterator[Callable[..., sqlite3.Cursor]]:
    """Let several statements see one state of the tables."""
    connection.execute("BEGIN")
    try:
        yield connection.execute
    finally:
        if connection.in_transaction:  # SQLite ends it by itself after some errors
            connection.execute("ROLLBACK")


def _compacted(sql: Callable[..., sqlite3.Cursor]) -> int:
    return int(sql("SELECT revision FROM compaction").fetchone()[0])


def _event(row: tuple[Any, ...]) -> Event:
    after, before = entry(row[:_WIDTH]), entry(row[_WIDTH:])
    return Event("put" if after else "delete", row[0], int(row[3]), after, before)
