"""The embedded store: `SqliteStore` puts the writer, the reader, watches and leases together."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

from sourcelair.errors import InvalidInput
from sourcelair.store.base import Change, Compare, Delete, Entry, Operation, Page, Put
from sourcelair.store.limits import MAX_INTEGER, check_key, check_text, check_transaction
from sourcelair.store.sqlite.files import FileLock, open_database, prepare_file, store_error
from sourcelair.store.sqlite.leases import Leases
from sourcelair.store.sqlite.reader import Reader
from sourcelair.store.sqlite.turns import Turns
from sourcelair.store.sqlite.watches import Watches
from sourcelair.store.sqlite.writer import Committed, Writer

HISTORY = 100_000
"""Rows of history that are kept for watches and lists of older revisions, unless said otherwise."""


class SqliteStore:
    """A `Store` in one SQLite file; made by `open_sqlite`. It belongs to the event loop that opened it."""

    def __init__(
        self, path: Path, connection: sqlite3.Connection, lock: FileLock, history: int, clock: Callable[[], float]
    ) -> None:
        self._lock = lock
        self._turns = Turns()
        self._reader = Reader(path, self._turns)
        self._writer = Writer(path, connection, history, self._turns, self._committed)
        self._watches = Watches(self._writer.revision, self._writer.compacted, self._reader.history)
        self._leases = Leases(self._writer.leases, clock, self._end_lease)
        self._writer.start()

    @property
    def most_operations(self) -> None:
        """See `Store.most_operations`: any number."""
        return None

    @property
    def page_size(self) -> int:
        """See `Store.page_size`: one thread reads for all."""
        return 500

    async def revision(self) -> int:
        """See `Store.revision`."""
        return await self._reader.revision()

    async def get(self, key: str) -> Entry | None:
        """See `Store.get`."""
        return await self._reader.get(check_key(key))

    async def list(self, prefix: str, *, revision: int | None = None, start_after: str = "", limit: int = 0) -> Page:
        """See `Store.list`."""
        if limit < 0:
            raise InvalidInput(f"limit: {limit} is negative; 0 means all.")
        return await self._reader.page(
            check_text("prefix", prefix), revision, check_text("start_after", start_after), limit
        )

    async def put(self, key: str, value: bytes, *, expect: int | None = None, lease: int | None = None) -> int:
        """See `Store.put`."""
        compares = [] if expect is None else [Compare(key, expect)]
        return await self.transact(compares, [Put(key, value, lease)])

    async def delete(self, key: str, *, expect: int | None = None) -> bool:
        """See `Store.delete`."""
        compares = [] if expect is None else [Compare(key, expect)]
        operations = [Delete(key)]
        check_transaction(compares, operations)
        return await self._writer.submit(
            lambda ledger: ledger.revision != ledger.transact(compares, operations)  # evaluated from left to right
        )

    async def transact(self, compares: Sequence[Compare], operations: Sequence[Operation]) -> int:
        """See `Store.transact`."""
        compares, operations = tuple(compares), tuple(operations)  # theirs may change before the writer sees them
        check_transaction(compares, operations)
        return await self._writer.submit(lambda ledger: ledger.transact(compares, operations))

    def watch(self, prefix: str, from_revision: int) -> AsyncIterator[Change]:
        """See `Store.watch`."""
        return self._watches.watch(check_text("prefix", prefix), from_revision)

    async def grant_lease(self, ttl: float) -> int:
        """See `Store.grant_lease`."""
        if not 0 < ttl < MAX_INTEGER:  # refuses NaN too
            raise InvalidInput(f"ttl: {ttl} is not a time in seconds above 0.")
        lease = await self._writer.submit(lambda ledger: ledger.grant_lease(ttl))
        self._leases.add(lease, ttl)
        return lease

    async def renew_lease(self, lease: int) -> None:
        """See `Store.renew_lease`. Touches no disk."""
        self._leases.renew(lease)

    async def revoke_lease(self, lease: int) -> None:
        """See `Store.revoke_lease`."""
        await self._end_lease(lease)
        self._leases.remove(lease)

    async def expire_leases(self) -> None:
        """End all leases whose time is over by the store's clock: for whoever moves that clock by hand."""
        await self._leases.expire()

    async def compact(self, revision: int) -> None:
        """See `Store.compact`. Done in small steps, so that writes get in between."""
        while await self._writer.submit(lambda ledger: ledger.compact(revision)):
            pass

    async def close(self) -> None:
        """See `Store.close`. A second call does nothing."""
        await self._leases.close()
        await self._writer.close()
        self._watches.close()
        await self._reader.close()
        self._turns.close()
        self._lock.release()

    def _committed(self, done: Committed) -> None:
        self._watches.publish(done)

    async def _end_lease(self, lease: int) -> None:
        await self._writer.submit(lambda ledger: ledger.end_lease(lease))


async def open_sqlite(
    path: Path,
    *,
    clock: Callable[[], float] = time.monotonic,
    history: int = HISTORY,
    max_bytes: int | None = None,
) -> SqliteStore:
    """Open a store, making its file and directory where they are missing.

    Args:
        path: of the file; `PATH.lock`, `PATH-wal` and `PATH-shm` lie beside it.
        clock: seconds, for leases.
        history: rows of history to keep; older ones are compacted.
        max_bytes: the size beyond which the file does not grow (`OutOfSpace`); None leaves that to the disk.

    Raises:
        Conflict: another process has it open.
        LairError: it is no store of ours, or a newer version's, or can't be read.
    """
    prepare_file(path)
    lock = FileLock(path)
    try:
        connection = open_database(path, max_bytes=max_bytes)
        try:
            return SqliteStore(path, connection, lock, history, clock)
        except sqlite3.Error as error:
            connection.close()
            raise store_error(path, error) from error
    except BaseException:
        lock.release()
        raise
