"""Answering asks: the promise that this node opens no request to a withdrawn instance, with the counts that remain.

The order is the proof: the withdrawal is applied (and journalled), *then* the counts are read, *then* they are sent.
While requests are in flight and somebody waits, the counts are read again, every few milliseconds at first.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass

from sourcelair.ceryx.agent.engine import Engine
from sourcelair.ceryx.agent.feed import FIRST_PAUSE, LONGEST_PAUSE
from sourcelair.ceryx.agent.journal import Journal
from sourcelair.ceryx.agent.reports import Reporter
from sourcelair.ceryx.agent.sources import SILENCE
from sourcelair.ceryx.agent.table import NodeTable
from sourcelair.ceryx.table import EngineGone
from sourcelair.client.ceryx import Acknowledgement, Ask, CeryxClient, InstanceCounts
from sourcelair.errors import Conflict, LairError
from sourcelair.telemetry import get_logger

_log = get_logger(__name__)

FIRST_READ, LONGEST_READ = 0.005, 0.05
"""Seconds between readings while requests are in flight: the first, and the longest."""

AT_ONCE = 1000
"""Asks that are answered with one reading."""

_Said = tuple[str, int, int, int, int, bool, int]


@dataclass(slots=True)
class _Standing:
    """An ask that stands. `due`: monotonic time of the next reading, None once nothing can change any more."""

    revision: int
    due: float | None = 0.0
    pause: float = FIRST_READ
    said: _Said | None = None


class Answers:
    """All asks to this node.

    Args:
        ceryx: the API.
        node: its name.
        engine: whose counts are read.
        table: what it holds.
        journal: is synced before a promise about another machine's instance.
    """

    def __init__(self, ceryx: CeryxClient, node: str, engine: Engine, table: NodeTable, journal: Journal) -> None:
        self.wake = asyncio.Event()
        self._ceryx = ceryx
        self._node = node
        self._engine = engine
        self._table = table
        self._journal = journal
        self._standing: dict[str, _Standing] = {}

    def asked(self, instance: str) -> bool:
        """Return whether somebody waits for this instance's withdrawal."""
        return instance in self._standing

    def changed(self) -> None:
        """Look again: something was applied, or NGINX is another one."""
        for standing in self._standing.values():
            if standing.due is None and (standing.said is None or standing.said[0] != self._engine.generation):
                standing.due = 0.0
        if self._standing:
            self.wake.set()

    async def listen(self, reporter: Reporter) -> None:
        """Follow the asks, for ever. Each stream begins with a whole report: the API may know nothing of this node."""
        pause = FIRST_PAUSE
        while True:
            with contextlib.suppress(LairError):
                if self._engine.generation is not None:
                    await reporter.report(everything=True)
                    async with self._ceryx.events(f"/api/nodes/{self._node}/asks", silence=SILENCE) as events:
                        pause = FIRST_PAUSE
                        async for event in events:
                            if event.event in {"ask", "end"}:
                                self._take(event.event, Ask(**event.json()))
            self._standing.clear()  # nobody listens; what still stands is asked again
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE)

    def _take(self, kind: str, ask: Ask) -> None:
        standing = self._standing.get(ask.instance)
        if kind == "end":
            if standing is not None and standing.revision <= ask.revision:
                del self._standing[ask.instance]
        elif standing is None or standing.revision < ask.revision:
            self._standing[ask.instance] = _Standing(ask.revision)
            self.wake.set()

    async def run(self, reporter: Reporter) -> None:
        """Answer, for ever."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._pause()):
                    await self.wake.wait()
            self.wake.clear()
            ready = self._ready()
            if not ready:
                continue
            try:
                await self._answer(ready, reporter)
            except EngineGone:
                continue  # it is looked at again once NGINX is back
            except Conflict:
                with contextlib.suppress(LairError):
                    await reporter.report(everything=True)
                self._later(ready)
            except LairError:
                self._later(ready)

    def _later(self, instances: Sequence[str]) -> None:
        """The answer did not arrive: say it again."""
        for instance in instances:
            if standing := self._standing.get(instance):
                standing.said, standing.due = None, time.monotonic() + LONGEST_READ

    def _may_be_read(self, instance: str, standing: _Standing) -> bool:
        return standing.revision <= self._table.applied and not self._table.live_below(instance, standing.revision)

    def _pause(self) -> float | None:
        """Return the seconds until the next reading; None where only an event can bring one."""
        if not self._engine.may_promise:
            return LONGEST_PAUSE if self._standing else None
        due = [
            item.due for name, item in self._standing.items() if item.due is not None and self._may_be_read(name, item)
        ]
        return max(0.0, min(due) - time.monotonic()) if due else None

    def _ready(self) -> list[str]:
        if not self._engine.may_promise:
            return []
        now = time.monotonic()
        return [
            name
            for name, item in self._standing.items()
            if item.due is not None and item.due <= now and self._may_be_read(name, item)
        ][:AT_ONCE]

    async def _answer(self, instances: list[str], reporter: Reporter) -> None:
        generation = self._engine.generation
        if generation is None or not await self._journal.sync():
            return
        revisions = {name: self._standing[name].revision for name in instances if name in self._standing}
        readings = await self._engine.counts_of(generation, list(revisions))
        flowing = await reporter.flowing([counts.instance for counts in readings if counts.idle_streams])
        answers = list[Acknowledgement]()
        for counts in readings:
            revision = revisions[counts.instance]
            standing = self._standing.get(counts.instance)
            # Looked at again: while the disk was synced, a publication may have come, and been withdrawn once more.
            if standing is None or standing.revision != revision or not self._engine.may_promise:
                continue
            if self._note(standing, generation, counts, flowing=counts.instance in flowing):
                answers.append(
                    Acknowledgement(
                        generation=generation,
                        instance=counts.instance,
                        revision=revision,
                        in_flight=counts.in_flight,
                        streams=counts.streams,
                        idle_streams=counts.idle_streams,
                        flowing=counts.instance in flowing,
                        total=counts.total,
                        robots=counts.robots,
                    )
                )
        if answers:
            await self._ceryx.acknowledge(self._node, answers)

    def _note(self, standing: _Standing, generation: str, counts: InstanceCounts, *, flowing: bool) -> bool:
        """Plan the next reading; return whether this one says something new."""
        said = (
            generation, standing.revision, counts.in_flight, counts.streams, counts.idle_streams, flowing, counts.total,
        )  # fmt: skip
        news = said != standing.said
        standing.said = said
        if counts.in_flight == 0:
            standing.due = None
        else:
            standing.pause = FIRST_READ if news else min(standing.pause * 1.5, LONGEST_READ)
            standing.due = time.monotonic() + standing.pause
        return news
