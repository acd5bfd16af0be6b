"""Routes in the store: atomic writes under conditions, who may write what, and the watch."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Iterable, Sequence
from dataclasses import dataclass
from typing import cast

from sourcelair.ceryx import metrics
from sourcelair.ceryx.doubts import Doubts, Sign
from sourcelair.ceryx.lists import RouteLists
from sourcelair.ceryx.models import decode_route, encode_route, record_of, route_key
from sourcelair.ceryx.sources import clean_source
from sourcelair.client.ceryx import RouteWrite, StoredRoute
from sourcelair.errors import (
    Conflict,
    HistoryCompacted,
    InvalidInput,
    LairError,
    NotFound,
    OutOfSpace,
    PreconditionFailed,
    Unavailable,
)
from sourcelair.pacing import in_steps
from sourcelair.store.base import Change, Compare, CompareFailed, Delete, Operation, Put, Store

MAX_BATCH = 10_000
"""Writes in one batch."""

ATTEMPTS = 20
"""How often a write is tried again because another one came between its reading and its writing."""

MOST_REMEMBERED = 20_000
"""Routes of which it is remembered what was written, so that the next write of one need not read it: some 5 MB."""

_READS_AT_ONCE = 100


@dataclass(frozen=True, slots=True)
class _Plan:
    """A transaction that is ready to be tried. `growth` is what it adds to the number of routes."""

    compares: list[Compare]
    operations: list[Operation]
    growth: int
    changes: bool
    """False where it only deletes what is not there."""
    sign: Sign | None
    """By which it shows whether it was done; None where the number of routes stays what it is."""


@dataclass(frozen=True, slots=True)
class Written:
    """Writes that are on disk. `created`: every one of them made a route that was not there."""

    revision: int
    created: bool
    transactions: int = 1
    """In how many they were done: several where the store does not take them as one."""


@dataclass(frozen=True, slots=True)
class _Known:
    """What a route is at a revision; at revision 0 there is none."""

    revision: int = 0
    manager: str | None = None


def _check(write: RouteWrite, known: _Known, manager: str | None) -> None:
    """Refuse a write that its condition or the route's manager forbids."""
    if write.expect is not None and write.expect != known.revision:
        raise PreconditionFailed(
            f"{write.source} is at revision {known.revision}, not {write.expect}."
            if known.revision
            else f"{write.source} does not exist: it has no revision {write.expect}.",
            source=write.source,
            revision=known.revision,
        )
    if known.manager is not None and known.manager != manager:
        raise Conflict(
            f"{write.source} is managed by {known.manager}: it can be changed through {known.manager} only.",
            source=write.source,
            managed_by=known.manager,
        )


class Routes:
    """All routes of an installation.

    Args:
        store: where they lie, under `/routes/`.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._contended = asyncio.Lock()
        self._written = dict[str, _Known]()
        """Routes as they were written here lately, the newest last: right, or found out by a transaction's compares."""
        self._doubts = Doubts(store)
        self.count = 0
        """Routes in the store, those of writes that are on their way included."""
        self.revision = 0
        """The newest at which a route was changed, as far as is known here."""

    async def load(self) -> None:
        """Count the routes, and make sure that this version can read them. Raises Unavailable if it can't."""
        while True:
            count = 0
            try:
                async for page, _ in RouteLists(self._store).pages():
                    for entry in page:
                        record_of(entry)
                        self.revision = max(self.revision, entry.mod_revision)
                    count += len(page)
            except HistoryCompacted:  # whoever shares etcd with us may forget it while it is read
                continue
            self.count = count
            metrics.ROUTES.set(count)
            return

    async def get(self, source: str) -> StoredRoute:
        """Return one route.

        Raises:
            NotFound: in the words of the original API.
        """
        try:
            entry = await self._store.get(route_key(clean_source(source)))
        except InvalidInput:
            entry = None  # what can't be a host has no route either
        if entry is None:
            raise NotFound(f"No route found for {source}.")
        return decode_route(entry)

    async def write(self, writes: Sequence[RouteWrite], manager: str | None, capacity: int | None) -> Written:
        """Do all writes or none, and return the revision at which they stand.

        Where the store does not take so many in one transaction they are done in several: all conditions are looked at
        before the first, and the revision is that of the last. An error says how many stand then.

        Args:
            writes: as `clean_writes` made them.
            manager: who writes; None for a client that manages nothing.
            capacity: routes that fit into the smallest node; None where no node said so yet.

        Raises:
            PreconditionFailed: an `expect` did not hold; `source` and `revision` of the first are in `extra`.
            Conflict: a route is managed by another.
            OutOfSpace: a node has no room for more routes.
            Unavailable: others kept changing the same routes.
        """
        grown = await self._doubts.settle()
        self.count += grown
        most = self._store.most_operations
        if most is None or len(writes) <= most:
            return await self._write_together(writes, manager, capacity)
        self._check_room((await self._plan_by_memory(writes, manager)).growth, capacity)
        revision, created, number = 0, True, 0
        for at in range(0, len(writes), most):
            try:
                written = await self._write_together(writes[at : at + most], manager, capacity)
            except LairError as error:
                if at:
                    error.detail += f" Of these {len(writes)} writes the first {at} stand, at least."
                    error.extra["written"] = at
                raise
            revision, created, number = written.revision, created and written.created, number + 1
        return Written(revision, created, number)

    async def _write_together(self, writes: Sequence[RouteWrite], manager: str | None, capacity: int | None) -> Written:
        started = time.perf_counter()
        written = await self._try(writes, manager, capacity)
        if written is None:
            # Those who got in each other's way go one by one: else few of many writers of one source ever get through.
            async with self._contended:
                for _ in range(ATTEMPTS):
                    written = await self._try(writes, manager, capacity)
                    if written is not None:
                        break
        if written is None:
            raise Unavailable("Others keep changing the same routes; try again.", retry_after=1)
        metrics.ROUTES.set(self.count)
        metrics.WRITE_SECONDS.observe(time.perf_counter() - started)
        return written

    async def take_back(self, sources: Sequence[str], revision: int) -> bool:
        """Delete routes that were created at a revision, all of them; return False if one was changed since.

        False too where they are more than one transaction takes: these have several revisions.
        """
        if self._store.most_operations is not None and len(sources) > self._store.most_operations:
            return False
        keys = [route_key(source) for source in sources]
        self._forget(sources)
        try:
            with self._doubts.until_answered(Sign(keys[0], there=False, growth=-len(keys))):
                taken_back = await self._store.transact(
                    [Compare(key, revision) for key in keys], [Delete(key) for key in keys]
                )
        except CompareFailed:
            return False
        self.revision = max(self.revision, taken_back)
        self.count -= len(keys)
        metrics.ROUTES.set(self.count)
        return True

    async def _try(self, writes: Sequence[RouteWrite], manager: str | None, capacity: int | None) -> Written | None:
        """Read, check and write once; return None if another write came between."""
        plan = await self._plan_by_memory(writes, manager)
        self._check_room(plan.growth, capacity)
        if not plan.changes:  # of other stores' keys, a revision may be higher than any that the nodes hear of
            return Written(self.revision, created=False)
        self.count += plan.growth
        try:
            with self._doubts.until_answered(plan.sign):
                revision = await self._store.transact(plan.compares, plan.operations)
        except BaseException as error:
            self.count -= plan.growth
            self._forget(write.source for write in writes)
            if isinstance(error, CompareFailed):
                return None
            raise
        self._remember(writes, revision)
        self.revision = max(self.revision, revision)
        return Written(revision, created=plan.growth == len(writes) > 0)

    def _check_room(self, growth: int, capacity: int | None) -> None:
        if growth > 0 and capacity is not None and self.count + growth > capacity:
            raise OutOfSpace(
                f"The smallest proxy node has room for {capacity} routes for certain, and {self.count} are there: "
                "raise route_table_bytes on the nodes, or delete routes."
            )

    async def _plan_by_memory(self, writes: Sequence[RouteWrite], manager: str | None) -> _Plan:
        """Plan by what is remembered of the routes, where that is known of all; nothing is refused on its word."""
        if (known := self._recall(writes)) is not None:
            with contextlib.suppress(PreconditionFailed, Conflict):
                return await self._plan(writes, known, manager)
        return await self._plan(writes, await self._read(writes), manager)

    async def _plan(self, writes: Sequence[RouteWrite], known: Sequence[_Known], manager: str | None) -> _Plan:
        compares, operations, growth, changes = list[Compare](), list[Operation](), 0, False
        told: tuple[str, bool] | None = None
        async for write, before in in_steps(zip(writes, known, strict=True)):
            _check(write, before, manager)
            key = route_key(write.source)
            compares.append(Compare(key, before.revision))
            changes = changes or write.route is not None or before.revision > 0
            if (write.route is None) == (before.revision > 0):
                told = key, write.route is not None
            if write.route is None:
                operations.append(Delete(key))
                growth -= before.revision > 0
            else:
                operations.append(Put(key, encode_route(write.route)))
                growth += before.revision == 0
        return _Plan(compares, operations, growth, changes, None if told is None else Sign(*told, growth))

    async def _read(self, writes: Sequence[RouteWrite]) -> list[_Known]:
        known = list[_Known]()
        for at in range(0, len(writes), _READS_AT_ONCE):
            keys = [route_key(write.source) for write in writes[at : at + _READS_AT_ONCE]]
            for entry in await asyncio.gather(*(self._store.get(key) for key in keys)):
                known.append(_Known(entry.mod_revision, decode_route(entry).managed_by) if entry else _Known())
        return known

    def _recall(self, writes: Sequence[RouteWrite]) -> list[_Known] | None:
        """Return what these routes are if all of them were written here lately."""
        known = [self._written.get(write.source) for write in writes]
        return None if None in known else cast("list[_Known]", known)

    def _remember(self, writes: Sequence[RouteWrite], revision: int) -> None:
        self._forget(write.source for write in writes)
        for write in writes[-MOST_REMEMBERED:]:
            if write.route is not None:
                self._written[write.source] = _Known(revision, write.route.managed_by)
        while len(self._written) > MOST_REMEMBERED:
            del self._written[next(iter(self._written))]

    def _forget(self, sources: Iterable[str]) -> None:
        for source in sources:
            self._written.pop(source, None)

    async def watch(self, from_revision: int) -> AsyncGenerator[Change, None]:
        """Begin a watch of all revisions from one on.

        A revision that changed no route comes too, with what it changed: it says how far the reader has come.

        Raises:
            HistoryCompacted: at once, or later from the generator: list the routes again. Also where `from_revision`
                has yet to come: its reader knows another store than this one, such as one before it was restored.
        """
        current = await self._store.revision()
        if from_revision > current + 1:
            raise HistoryCompacted(f"Revision {from_revision} has yet to come, this store is at {current}: list again.")
        # All keys, not only routes: else a reader never learns that a revision of other keys has passed.
        changes = cast("AsyncGenerator[Change, None]", self._store.watch("", from_revision))
        first = asyncio.ensure_future(anext(changes, None))
        try:
            # Lost history shows at the first step, which the store takes before it answers this.
            await self._store.revision()
            await asyncio.sleep(0)
            if first.done():
                first.result()
        except BaseException:
            first.cancel()
            await asyncio.wait([first])
            await changes.aclose()
            raise
        return self._follow(changes, first)

    async def _follow(
        self, changes: AsyncGenerator[Change, None], first: asyncio.Future[Change | None]
    ) -> AsyncGenerator[Change, None]:
        try:
            change = await first
            while change is not None:
                yield change
                change = await anext(changes, None)
        finally:
            first.cancel()
            await asyncio.wait([first])
            await changes.aclose()
