"""Counts of withdrawn instances are forgotten in the end, and never while they are needed for a proof."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.ceryx.agents import alive, asleep, eventually, live, make_agent
from tests.ceryx.conftest import Ceryx
from tests.ceryx.engine import MemoryEngine

from sourcelair.ceryx.agent import reports
from sourcelair.ceryx.agent.resolve import Resolver
from sourcelair.ceryx.agent.table import NodeTable
from sourcelair.ceryx.agent.wakers import Wakers
from sourcelair.client.ceryx import InstanceCounts, RouteWrite

pytestmark = pytest.mark.anyio


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Readings come fast and instances are over at once; returns the instances that NGINX was asked to forget."""
    monkeypatch.setattr(reports, "HEARTBEAT", 0.02)
    monkeypatch.setattr(reports, "FORGET_AFTER", 0.0)
    return []


def watched(asked: list[str]) -> MemoryEngine:
    return MemoryEngine(before_forget=asked.extend)


async def readings(engine: MemoryEngine, number: int) -> None:
    """Wait for so many readings of the counts that begin after this."""
    done, left = asyncio.Event(), number + 1

    async def count(instances: Sequence[str]) -> None:
        nonlocal left
        left -= 1
        if left <= 0:
            done.set()

    engine.after_counts = count
    async with asyncio.timeout(10):
        await done.wait()
    engine.after_counts = None


async def test_one_that_is_withdrawn_during_the_readings_is_left_alone(
    api: Ceryx, tmp_path: Path, asked: list[str]
) -> None:
    """It was read while visitors still came: that nothing was in flight then proves nothing."""
    client, engine = api.client(), watched(asked)
    await client.put_route(live("a", instance="x"))
    await client.batch([RouteWrite(source=f"h{n}", route=live(f"h{n}", instance=f"i{n}")) for n in range(600)])
    engine.count("x", total=5)
    agent = make_agent(tmp_path, api.url, engine)
    async with alive(agent):
        await engine.until(lambda it: it.loaded)
        await readings(engine, 2)
        writes: list[asyncio.Task[int]] = []

        async def visit_and_withdraw(instances: Sequence[str]) -> None:
            if "x" in instances and not writes:
                engine.count("x", in_flight=1, total=6)
                writes.append(asyncio.create_task(client.put_route(asleep("a"))))
                # The readings go on in parts: the withdrawal is the next call of NGINX, before the second part.
                await eventually(lambda: bool(agent._engine._one._waiters))

        engine.after_counts = visit_and_withdraw
        await eventually(lambda: bool(writes))
        revision = await writes[0]
        await readings(engine, 3)
        assert "x" not in asked
        state = await client.withdrawal("x", revision, until="acknowledged", wait=5)
        assert (state.nodes[0].in_flight, state.nodes[0].total) == (1, 6)


@dataclass
class Idle:
    """An engine whose instances have nothing in flight."""

    forgotten: list[str] = field(default_factory=list)
    generation: str = "g1"

    async def counts(self, instances: Sequence[str]) -> list[InstanceCounts]:
        return [InstanceCounts(instance=name, total=5) for name in instances]

    async def forget(self, instances: Sequence[str]) -> list[str]:
        self.forgotten += instances
        return list(instances)


async def test_one_that_is_asked_for_is_not_forgotten(asked: list[str]) -> None:
    """Whoever waits compares totals: they must not begin at zero again. Afterwards it is forgotten."""
    engine, resolver = Idle(), Resolver(30.0)
    table = NodeTable(resolver, Wakers(Resolver(30.0)))
    table.withdrawn = {"x": None, "y": None}
    reporter = reports.Reporter(None, engine, table, node="n1", session=1, resolver=resolver)  # type: ignore[arg-type]
    reporter.is_asked = lambda name: name == "x"
    await reporter._count()
    assert engine.forgotten == ["y"]
    reporter.is_asked = lambda name: False
    await reporter._count()
    assert "x" in engine.forgotten
