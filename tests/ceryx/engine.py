"""An engine in memory that keeps the rules of the real one: sessions, revisions, generations, counts."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from sourcelair.ceryx.table import EngineGone, EngineState, Flow, Place, StaleSession, TableEntry, TableFull
from sourcelair.client.ceryx import InstanceCounts

_generations = itertools.count(1)


@dataclass
class MemoryEngine:
    """One NGINX; `restart` makes it another one, `stop` lets nobody in."""

    capacity: int = 100_000
    published: int | None = None
    """The capacity that it says it has, where that is not the truth."""
    generation: str = field(default_factory=lambda: f"g{next(_generations)}")
    session: int = 0
    loaded: bool = False
    running: bool = True
    introduced: tuple[str, str | None, str | None] | None = None
    table: dict[str, TableEntry] = field(default_factory=dict)
    wakers: dict[str, Place] = field(default_factory=dict)
    counted: dict[str, InstanceCounts] = field(default_factory=dict)
    applied: list[TableEntry] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)
    forgotten: list[str] = field(default_factory=list)
    open_flows: list[Flow] = field(default_factory=list)
    held: int = 0
    connections: int | None = None
    before_apply: Callable[[Sequence[TableEntry]], Awaitable[None]] | None = None
    before_forget: Callable[[Sequence[str]], None] | None = None
    after_counts: Callable[[Sequence[str]], Awaitable[None]] | None = None
    after_apply: Callable[[Sequence[TableEntry]], Awaitable[None]] | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    calls: int = 0

    def restart(self) -> None:
        self.generation = f"g{next(_generations)}"
        self.session, self.loaded, self.table, self.counted, self.wakers = 0, False, {}, {}, {}

    def routes(self) -> dict[str, TableEntry]:
        return {source: entry for source, entry in self.table.items() if entry.state != "deleted"}

    def _check(self) -> None:
        assert self.calls == 1, "two control calls at once"
        if not self.running:
            raise EngineGone("not running")

    async def _call(self) -> None:
        self.calls += 1
        try:
            await asyncio.sleep(0)
            self._check()
        finally:
            self.calls -= 1

    async def hello(self, session: int) -> EngineState:
        await self._call()
        if session < self.session:
            raise StaleSession
        self.session = session
        capacity = self.published or self.capacity
        return EngineState(self.generation, self.loaded, len(self.routes()), capacity, self.held, self.connections)

    async def apply(self, entries: Sequence[TableEntry], session: int | None = None) -> None:
        if self.before_apply:
            await self.before_apply(entries)
        await self._call()
        for entry in entries:
            known = self.table.get(entry.source)
            if known is not None and known.revision > entry.revision:
                continue
            if known is None and entry.state != "deleted" and len(self.routes()) >= self.capacity:
                raise TableFull(entry.source)
            self.table[entry.source] = entry
            self.applied.append(entry)
        self.batches.append(len(entries))
        self.changed.set()
        if self.after_apply:
            await self.after_apply(entries)

    async def set_wakers(self, places: Mapping[str, Place]) -> None:
        await self._call()
        self.wakers |= places
        self.changed.set()

    async def read(self, sources: Sequence[str]) -> list[TableEntry | None]:
        await self._call()
        return [self.table.get(source) for source in sources]

    async def oldest(self, most: int) -> list[str]:
        await self._call()
        sources = list(self.table)[:most]
        self.table |= {source: self.table.pop(source) for source in sources}
        return sources

    async def set_loaded(self, node: str, waker: str | None, waker_token: str | None) -> None:
        await self._call()
        self.introduced = (node, waker, waker_token)
        self.loaded = True
        self.changed.set()

    async def counts(self, instances: Sequence[str]) -> list[InstanceCounts]:
        await self._call()
        found = [self.counted.get(name, InstanceCounts(instance=name)) for name in instances]
        if self.after_counts:
            await self.after_counts(instances)
        return found

    async def flows(self) -> list[Flow]:
        await self._call()
        return list(self.open_flows)

    async def forget(self, instances: Sequence[str]) -> list[str]:
        await self._call()
        if self.before_forget:
            self.before_forget(instances)
        idle = [name for name in instances if name not in self.counted or not self.counted[name].in_flight]
        self.forgotten += idle
        for name in idle:
            self.counted.pop(name, None)
        return idle

    def count(self, instance: str, **values: int) -> None:
        known = self.counted.get(instance, InstanceCounts(instance=instance))
        self.counted[instance] = known.model_copy(update=values)

    async def until(self, condition: Callable[[MemoryEngine], bool], timeout: float = 10) -> None:
        """Wait until the engine looks like that."""
        async with asyncio.timeout(timeout):
            while not condition(self):
                self.changed.clear()
                await self.changed.wait()
