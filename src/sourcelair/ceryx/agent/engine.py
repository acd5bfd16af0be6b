"""The one that speaks to NGINX: connects, compares, fills, applies, and reads counts, one call at a time.

NGINX may be another one at any moment: a new generation begins with an empty table, and what is known of the old one
is void. So the real table is read on every connect, and nothing is assumed.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping, Sequence

from sourcelair.ceryx.agent.batches import BATCH, batches
from sourcelair.ceryx.agent.journal import Journal
from sourcelair.ceryx.agent.readback import read_back
from sourcelair.ceryx.agent.refusals import MOST_TRIED, Refusals
from sourcelair.ceryx.agent.table import MANY, NodeTable
from sourcelair.ceryx.agent.wakers import Wakers
from sourcelair.ceryx.table import EngineGone, EngineState, Flow, Place, TableControl, TableEntry, TableFull
from sourcelair.client.ceryx import InstanceCounts
from sourcelair.pacing import in_steps, keep
from sourcelair.telemetry import get_logger

_log = get_logger(__name__)

CHECK = 0.25
"""Seconds between looks whether NGINX is still the same, while there is nothing else to tell it."""

FIRST_PAUSE, LONGEST_PAUSE = 0.02, 1.0
"""Seconds between attempts to connect: the first, and the longest after doubling."""


class Engine:
    """This node's NGINX.

    Args:
        control: the way into it.
        session: this agent's number.
        table: what it shall hold.
        journal: is written before it is told.
        wakers: whose addresses it is told.
        introduce: the arguments of `set_loaded`: node, waker, waker token.
    """

    def __init__(
        self,
        control: TableControl,
        session: int,
        table: NodeTable,
        journal: Journal,
        *,
        wakers: Wakers,
        introduce: tuple[str, str | None, str | None],
    ) -> None:
        self.generation: str | None = None
        self.capacity = 0
        self.connected = False
        """The table is compared and loaded, and NGINX answered the last call."""
        self.known = asyncio.Event()
        """Set once there is something to fill an empty table from: a snapshot, or the file while the API is down."""
        self.wake = asyncio.Event()
        self.on_applied: Callable[[], None] = lambda: None
        """Called when `applied`, the generation or the connection has changed."""
        self._control = control
        self._session = session
        self._table = table
        self._journal = journal
        self._wakers = wakers
        self._introduce = introduce
        self._one = asyncio.Lock()
        self._complete = False
        self._suspect = False
        self._stored = 0
        self.held = 0
        """Requests that wait at the gate, as of NGINX's last word."""
        self.connections: int | None = None
        """Connections that clients have open, as of NGINX's last word."""
        self._checked = 0.0
        self.refusals = Refusals()
        """What there was no room for."""

    @property
    def routes(self) -> int:
        """Return how many routes NGINX holds."""
        return len(self._table.shown)

    @property
    def may_promise(self) -> bool:
        """Return whether what is known of NGINX's table is all that it holds, and is on disk."""
        told = self.connected and not self._suspect and not self._journal.behind
        return told and self._complete and self._table.sound

    async def run(self) -> None:
        """Keep NGINX's table as it is wanted, for ever.

        Raises:
            StaleSession: a newer agent took over.
        """
        pause = FIRST_PAUSE
        while True:
            try:
                await self._connect(await self._hello())
                pause = FIRST_PAUSE
                await self._keep()
            except EngineGone as error:
                if self.connected:
                    _log.warning("engine_gone", node=self._introduce[0], error=str(error))
                self.connected = False
                self.on_applied()
                await asyncio.sleep(pause)
                pause = min(pause * 2, LONGEST_PAUSE)

    async def _hello(self) -> EngineState:
        async with self._one:
            state = await self._control.hello(self._session)
        self._stored, self.capacity = state.routes, state.capacity
        self.held, self.connections = state.held, state.connections
        return state

    async def _connect(self, state: EngineState) -> None:
        anew = state.generation != self.generation
        if not state.loaded and not self.known.is_set():
            await self.known.wait()
            state = await self._hello()
        self.generation = state.generation
        found = list[TableEntry]()
        if state.routes > 0:
            sources = list(self._table.wanted)
            async for source in in_steps(list(self._table.shown), MANY):
                if source not in self._table.wanted:
                    sources.append(source)
            found = await read_back(self._control, self._one, sources, state.routes)
        if anew:
            self._table.sound = True
            self.refusals.clear()
        async with self._one:  # nobody forgets an instance that is yet to be seen as live
            await self._table.show_all(found, anew=anew)
        for source in self.refusals:
            if self.refusals.is_of(self._table.wanted.get(source)):  # it has its own time to be tried again
                self._table.dirty.pop(source, None)
        self._suspect = False
        self._complete = self._count_fits(state)
        await self._name_wakers(self._wakers.take_all())
        if not state.loaded:
            await self._table.order_by_depth()
        await self._apply()
        if (await self._hello()).generation != state.generation:
            raise EngineGone("NGINX started anew while its table was compared")
        async with self._one:
            await self._control.set_loaded(*self._introduce)
        self.connected = True
        _log.info(
            "engine_ready", generation=state.generation, routes=self.routes, found=len(found), loaded=state.loaded
        )
        self.on_applied()

    def _count_fits(self, state: EngineState) -> bool:
        """Tell whether NGINX holds no route that this agent does not know: of such a one nothing can be promised."""
        if state.routes > self.routes:
            _log.error("unknown_routes", held=state.routes, known=self.routes, remedy="restart NGINX if this stays")
            return False
        return True

    async def _keep(self) -> None:
        while True:
            # Never `asyncio.wait_for`: Python 3.11's loses a cancellation that comes together with the event.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CHECK):
                    await self.wake.wait()
            self.wake.clear()
            if self._suspect:  # it may be another one, whose table is empty
                await self._same_generation()
            await self._name_wakers(self._wakers.take_fresh())
            await self._bring()  # before the usual look: somebody may be waiting for it
            if time.monotonic() - self._checked >= CHECK or self._suspect or not self._complete:
                await self._same_generation()
            self._table.want_again(self.refusals.take_due(time.monotonic(), self.capacity - self._stored))
            await self._bring()

    async def _bring(self) -> None:
        if self._table.dirty or self._table.applied != self._table.revision:
            await self._apply()
            self.on_applied()

    async def _name_wakers(self, places: Mapping[str, Place]) -> None:
        if places:
            async with self._one:
                await self._control.set_wakers(places)

    async def _same_generation(self) -> None:
        state = await self._hello()
        self._checked = time.monotonic()
        if state.generation != self.generation or not state.loaded:
            raise EngineGone(f"NGINX started anew: {state.generation}")
        self._suspect = False
        if not self._complete and not self._table.dirty:
            self._complete = self._count_fits(state)

    async def _apply(self) -> None:
        """Bring all that is dirty now to NGINX; what comes meanwhile is for the next round."""
        goal, refused = self._table.revision, 0
        for at, batch in enumerate(batches(list(self._table.dirty)), 1):
            entries = [self._table.wanted[source] for source in batch if source in self._table.dirty]
            self._journal.append(entries, self._table.names)
            refused += await self._tell(entries, refused)
            if at * BATCH % MANY == 0:
                keep()
            if len(entries) == BATCH:
                await asyncio.sleep(0)  # what grows with each of them does so in turns, not all at once
        if refused:
            await self._hello()  # the API must not take more routes for room that is not there
        self._table.applied = goal

    async def _tell(self, entries: list[TableEntry], refused: int) -> int:
        """Apply entries but those for which there is no room; return how many these are.

        Args:
            entries: in their order.
            refused: how many were refused in this round: after many, only what is there already is tried.
        """
        before = refused
        while entries:
            if refused >= MOST_TRIED and (new := [entry for entry in entries if self._is_new(entry)]):
                _log.error("route_table_full", sources=len(new), capacity=self.capacity)
                for entry in new:
                    self._refuse(entry)
                refused += len(new)
                entries = [entry for entry in entries if not self._is_new(entry)]
                continue
            full: str | None = None
            try:
                async with self._one:
                    await self._control.apply(entries)
                applied = len(entries)
            except TableFull as error:
                full = error.source
                applied = next(at for at, entry in enumerate(entries) if entry.source == full)
            for entry in entries[:applied]:
                self._table.show(entry)
                self.refusals.settle(entry.source)
            if self.refusals and any(entry.state == "deleted" for entry in entries[:applied]):
                self.refusals.hurry()
                self.wake.set()
            if full is not None:
                if self._refuse(entries[applied]):
                    _log.error("route_table_full", source=full, capacity=self.capacity)
                refused += 1
                applied += 1
            entries = entries[applied:]
        return refused - before

    def _is_new(self, entry: TableEntry) -> bool:
        return entry.state != "deleted" and entry.source not in self._table.shown

    def _refuse(self, entry: TableEntry) -> bool:
        """Leave an entry out until it is tried again; return whether that is news."""
        if self._table.wanted.get(entry.source) == entry:
            self._table.dirty.pop(entry.source, None)
        return self.refusals.refuse(entry)

    async def counts(self, instances: Sequence[str]) -> list[InstanceCounts]:
        """Return what the current generation counted.

        Raises:
            EngineGone: it is gone; whoever maintains the table finds out too.
        """
        found = list[InstanceCounts]()
        try:
            for batch in batches(instances):
                async with self._one:
                    found += await self._control.counts(batch)
        except EngineGone:
            self._lost()
            raise
        return found

    async def counts_of(self, generation: str, instances: Sequence[str]) -> list[InstanceCounts]:
        """Return what one generation counted: looks afterwards whether it was still that one that answered.

        Raises:
            EngineGone: it was not.
        """
        found = await self.counts(instances)
        try:
            state = await self._hello()
        except EngineGone:
            self._lost()
            raise
        if state.generation != generation or self.generation != generation:
            self._lost()
            raise EngineGone(f"NGINX started anew: {state.generation}")
        return found

    async def flows(self) -> list[Flow]:
        """Return the visitors' sockets of the streams that count as activity while bytes flow. Raises EngineGone."""
        async with self._one:
            return await self._control.flows()

    def _lost(self) -> None:
        """Promise nothing before NGINX has said who it is."""
        self._suspect = True
        self.wake.set()

    async def forget(self, instances: Sequence[str]) -> list[str]:
        """Drop the counts of instances that still have no route here, and nothing in flight; return which."""
        async with self._one:
            gone = [instance for instance in instances if instance not in self._table.live]
            if gone:
                gone = await self._control.forget(gone)
        for instance in gone:
            self._table.withdrawn.pop(instance, None)
        return gone
