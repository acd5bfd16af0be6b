"""The record of one server in memory, as it is on disk: every change goes through here, one after the other."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from functools import cached_property

from sourcelair.errors import NotFound, OutOfSpace, Unavailable
from sourcelair.servers.changes import Changes
from sourcelair.servers.context import Context
from sourcelair.servers.records import STARTS, ServerRecord, decode, encode
from sourcelair.store.base import Compare, CompareFailed, Delete, Operation, Put
from sourcelair.telemetry import get_logger

log = get_logger(__name__)

Change = Callable[[ServerRecord], ServerRecord]

Beside = Callable[[ServerRecord, ServerRecord], tuple[Sequence[Compare], Sequence[Operation]]]
"""Returns what else a change from one record to another asks for and writes."""


def _nothing(_: ServerRecord, __: ServerRecord) -> tuple[Sequence[Compare], Sequence[Operation]]:
    return (), ()


class Stored(Changes):
    """A record, and who waits for it to change.

    Args:
        context: what all servers share.
        record: as it is stored.
        revision: of the record in the store.
    """

    def __init__(self, context: Context, record: ServerRecord, revision: int) -> None:
        super().__init__()
        self.context = context
        self.record = record
        self.revision = revision
        self.failed_starts = 0
        """Failed starts that this process saw; who waits compares."""
        self.removed = False
        """Whether it is forgotten."""
        self.recovered = record.instance is None
        """What was left of an earlier control plane, or of a write that was not answered, was looked at."""
        self.doubtful = False
        """A write's answer never came: nobody here knows whether the record is another one by now."""
        self._writing = asyncio.Lock()

    @cached_property
    def gone(self) -> asyncio.Event:
        """Return what is set once it is forgotten; hardly anybody waits for that."""
        gone = asyncio.Event()
        if self.removed:
            gone.set()
        return gone

    async def update(
        self, change: Change, beside: Beside = _nothing, stored: Callable[[], None] = lambda: None
    ) -> None:
        """Change the record, on disk before anybody sees it. A change that changes nothing writes nothing.

        Args:
            change: makes the next record of the newest one.
            beside: returns what is asked for and written in the same transaction.
            stored: called once it is on disk, before anybody else hears of it.

        Raises:
            NotFound: it was forgotten.
            CompareFailed: what `beside` asks for does not hold; nothing was changed.
        """
        # Whoever asked may be cancelled meanwhile; what is on disk and what we know must not part.
        writing = asyncio.ensure_future(self._update(change, beside, stored))
        try:
            await asyncio.shield(writing)
        except asyncio.CancelledError:
            await asyncio.wait([writing])
            writing.exception()  # nobody else hears of it
            raise

    async def _update(self, change: Change, beside: Beside, stored: Callable[[], None]) -> None:
        async with self._writing:
            if self.removed:
                raise NotFound(f"No server found for {self.record.name}.")
            if self.doubtful:
                await self._reread()
            while True:
                record = change(self.record)
                compares, also = beside(self.record, record)
                if record == self.record and not also:
                    return
                try:
                    revision = await self.context.store.transact(
                        [Compare(record.key, self.revision), *compares], [Put(record.key, encode(record)), *also]
                    )
                    break
                except CompareFailed as error:
                    if error.key != record.key:
                        raise
                    await self._reread()
                except (Unavailable, OutOfSpace):
                    self.doubtful = True
                    self.notify()  # the worker finds out, as soon as the store answers
                    raise
            stored()
            self._stand(record, revision)
        self.notify()

    def _stand(self, record: ServerRecord, revision: int) -> None:
        """Take over a record as it is stored."""
        before, self.record, self.revision = self.record, record, revision
        self.context.population.changed(before, record)
        if record.state == "failed" != before.state:  # before anybody who waits looks again
            self.failed_starts += 1
            log.warning("start_failed", server=record.name, reason=record.failure)
        if record.state != before.state:
            log.info("state", server=record.name, state=record.state, was=before.state, cause=record.cause)

    async def _reread(self) -> None:
        """Learn how the record stands, where a write's answer never came: it may have landed. Nobody else writes it.

        Raises:
            NotFound: what landed was that it is forgotten.
        """
        entry = await self.context.store.get(self.record.key)
        if entry is None:
            raise NotFound(f"No server found for {self.record.name}.")
        self.doubtful, before = False, self.record.instance_id
        if entry.mod_revision != self.revision:
            self._stand(self.context.policies.applied(decode(ServerRecord, entry)), entry.mod_revision)
            if self.record.instance_id not in {None, before}:
                self.recovered = False  # whether it runs is looked at as after a crash
            self.notify()

    async def keep(self, beside: Put, usual_start: float | None) -> None:
        """Store what its starts took beside the record, and let its next change store what is usual.

        So nobody who waits for this server is disturbed, and its revision stays what it is.

        Raises:
            NotFound: it was forgotten.
        """
        async with self._writing:
            if self.removed:
                raise NotFound(f"No server found for {self.record.name}.")
            await self.context.store.put(beside.key, beside.value)
            self.record.usual_start = usual_start

    async def forget(self, also: Callable[[ServerRecord], Sequence[Operation]]) -> ServerRecord:
        """Delete the record, and return it as it was last; no change comes after it.

        Args:
            also: returns what is written in the same transaction.
        """
        async with self._writing:
            record = self.record
            operations = [Delete(record.key), Delete(f"{STARTS}{record.owner}/{record.project}"), *also(record)]
            try:
                await self.context.store.transact([Compare(record.key, self.revision)], operations)
            except CompareFailed:
                with contextlib.suppress(NotFound):  # it was forgotten by a write whose answer never came
                    await self._reread()
                    raise
            self.removed = True
            self.gone.set()
        return record
