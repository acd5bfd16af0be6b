"""What this node says of itself: how far it is, at once after applying, and every second with changed counts."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from sourcelair.ceryx.agent.engine import Engine
from sourcelair.ceryx.agent.flows import Flows
from sourcelair.ceryx.agent.resolve import Resolver
from sourcelair.ceryx.agent.table import NodeTable
from sourcelair.ceryx.table import EngineGone, StaleSession
from sourcelair.client.ceryx import CeryxClient, InstanceCounts, NodeReport
from sourcelair.errors import Conflict, LairError, NotFound
from sourcelair.telemetry import get_logger

_log = get_logger(__name__)

HEARTBEAT = 1.0
"""Seconds between reports while nothing changes, and between readings of the counts."""

COUNTS_AT_ONCE = 20_000
"""Counts in one report, of a few megabytes; where more have changed, the rest follows at once."""

LATELY = 3.0
"""Seconds for which bytes on a stream count as just passed: longer than a report of them is on its way."""

FORGET_AFTER = 60.0
"""Seconds after which a withdrawn instance with nothing in flight is forgotten."""


@dataclass(slots=True)
class _Seen:
    """The last reading of an instance, as it was reported. `idle_since`: monotonic time of its last request's end."""

    counts: InstanceCounts
    sent: InstanceCounts | None = None
    idle_since: float | None = None


class Activity:
    """When each instance was last active, from readings of its counts."""

    def __init__(self) -> None:
        self.seen: dict[str, _Seen] = {}

    def read(self, readings: Iterable[InstanceCounts], now: float, clock: float, flowing: Collection[str] = ()) -> None:
        """Take in a reading.

        Args:
            readings: the counts.
            now: Unix seconds, for `last_active`.
            clock: monotonic seconds.
            flowing: instances on whose streams bytes have passed since the last reading.
        """
        for counts in readings:
            seen = self.seen.get(counts.instance)
            before = seen.counts if seen else InstanceCounts(instance=counts.instance)
            visits, visits_before = counts.total - counts.robots, before.total - before.robots
            open_visits = counts.in_flight - counts.robots_in_flight - counts.idle_streams
            active = open_visits > 0 or visits != visits_before or counts.instance in flowing
            taken = counts.model_copy(update={"last_active": now if active else before.last_active})
            if seen is None:
                seen = self.seen[counts.instance] = _Seen(taken)
            elif taken != before:
                seen.counts = taken
            if counts.in_flight:
                seen.idle_since = None
            elif seen.idle_since is None:
                seen.idle_since = clock

    def begin_generation(self) -> None:
        """NGINX's counts begin at zero again; when instances were last active remains."""
        for name, seen in self.seen.items():
            seen.counts = InstanceCounts(instance=name, last_active=seen.counts.last_active)
            seen.idle_since = None


class Reporter:
    """The heartbeat of one node.

    Args:
        ceryx: the API.
        engine: whose counts are read.
        table: what it holds.
        node: its name.
        session: of this agent.
        resolver: holds a revision back while its target's name is looked up for the first time.
    """

    def __init__(
        self,
        ceryx: CeryxClient,
        engine: Engine,
        table: NodeTable,
        *,
        node: str,
        session: int,
        resolver: Resolver,
    ) -> None:
        self.wake = asyncio.Event()
        self.on_removed: Callable[[], None] = lambda: None
        self._ceryx = ceryx
        self._node = node
        self._session = session
        self._engine = engine
        self._table = table
        self._resolver = resolver
        self.is_asked: Callable[[str], bool] = lambda _: False
        """Tells whether somebody waits for an instance's withdrawal."""
        self._activity = Activity()
        self._flows = Flows()
        self._flowed: dict[str, float] = {}
        """When (monotonic) bytes were last seen to pass on an instance's streams."""
        self._generation: str | None = None
        self._resend = True
        self._reporting = asyncio.Lock()

    async def run(self) -> None:
        """Report, for ever.

        Raises:
            StaleSession: a newer agent reports for this node.
        """
        counted = 0.0
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(HEARTBEAT):
                    await self.wake.wait()
            self.wake.clear()
            if self._engine.generation is None:
                continue
            if time.monotonic() - counted >= HEARTBEAT and self._engine.connected:
                counted = time.monotonic()
                with contextlib.suppress(EngineGone):
                    await self._count()
            try:
                await self.report()
            except NotFound:
                self.on_removed()
            except LairError:
                self._resend = True  # the API may have lost what it knew; its feed says that it is down

    async def _count(self) -> None:
        if self._generation != self._engine.generation:
            self._generation = self._engine.generation
            self._activity.begin_generation()
        # One that is withdrawn during the readings was perhaps read while visitors still came.
        withdrawn = list(self._table.withdrawn)
        readings = await self._engine.counts([*self._table.live, *withdrawn])
        idle = any(counts.idle_streams for counts in readings)
        flowing = await self._flows.moved(await self._engine.flows()) if idle else ()
        now = time.monotonic()
        self._flowed = {name: at for name, at in self._flowed.items() if now - at < LATELY} | dict.fromkeys(
            flowing, now
        )
        self._activity.read(readings, time.time(), now, flowing)
        over = [name for name in withdrawn if name in self._table.withdrawn and self._is_over(name, now)]
        for name in await self._engine.forget(over) if over else ():
            self._activity.seen[name] = _Seen(InstanceCounts(instance=name))

    async def flowing(self, instances: Collection[str]) -> set[str]:
        """Return on which of these instances' streams bytes have passed lately: what was not told yet is among it.

        Raises:
            EngineGone: NGINX does not answer.
        """
        if not instances:
            return set()
        moved = await self._flows.moved(await self._engine.flows(), keep=True)
        since = time.monotonic() - LATELY
        return {name for name in instances if name in moved or self._flowed.get(name, since) > since}

    def _is_over(self, instance: str, now: float) -> bool:
        seen = self._activity.seen.get(instance)
        idle_since = seen.idle_since if seen else None
        return idle_since is not None and now - idle_since >= FORGET_AFTER and not self.is_asked(instance)

    async def report(self, *, everything: bool = False) -> None:
        """Send one report.

        Args:
            everything: all counts, not only those that changed: the API may have been restarted.

        Raises:
            NotFound: this node was removed.
            StaleSession: a newer agent reports for this node.
            LairError: it did not arrive.
        """
        async with self._reporting:
            if everything or self._resend:
                for seen in self._activity.seen.values():
                    seen.sent = None
            changed = [seen for seen in self._activity.seen.values() if seen.counts is not seen.sent]
            left = changed[COUNTS_AT_ONCE:]
            del changed[COUNTS_AT_ONCE:]
            sent = [seen.counts for seen in changed]
            refused, applied = self._engine.refusals.report(self._table.applied, self._table.wanted)
            report = NodeReport(
                session=self._session,
                generation=self._engine.generation or "",
                applied=self._resolver.reportable(applied),
                routes=self._engine.routes,
                capacity=self._engine.capacity,
                loaded=self._engine.connected,
                counts=sent,
                refused=refused,
                held=self._engine.held,
                connections=self._engine.connections,
            )
            try:
                await self._ceryx.report(self._node, report)
            except Conflict as error:
                raise StaleSession(error.detail) from error
            self._resend = False
            if left:
                self.wake.set()
            for seen, counts in zip(changed, sent, strict=True):
                seen.sent = counts
            for counts in sent:
                if counts.total == 0 and counts.last_active is None and counts.instance not in self._table.live:
                    self._activity.seen.pop(counts.instance, None)
