"""Schedules: started as a window begins, kept awake in it, and left to the usual idleness at its end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from tests.servers.world import Life, World

from sourcelair.client.servers import SleepRequest, StartRequest
from sourcelair.servers import reasons, timetable
from sourcelair.servers.drivers.mock import Script
from sourcelair.servers.records import SERVERS
from sourcelair.store.base import Operation

pytestmark = pytest.mark.anyio

VISIT = StartRequest(cause="visit")
HOUR = 3600.0
NINE_TO_FIVE = {
    "schedule": [
        {"days": ["wed"], "start": "09:00", "end": "17:00"},
        {"days": ["fri"], "start": "09:00", "end": "17:00"},
    ]
}


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def set_clock(world: World, text: str) -> None:
    world.clock_set_by = at(text) - time.time()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock is looked at often: it is set by tests, and nobody tells of that."""
    monkeypatch.setattr(timetable, "LONGEST_WAIT", 0.02)


async def scheduled(life: Life, **changes: Any) -> None:
    await life.create(spec={"sleep": NINE_TO_FIVE}, **changes)


async def looks(life: Life, count: int = 3) -> None:
    """Let the timetable look at its clock a few times."""
    for _ in range(count):
        await asyncio.sleep(timetable.LONGEST_WAIT * 1.5)


async def sleep(life: Life) -> Any:
    server = await life.client.get("demo", "blog")
    assert server.instance is not None
    return await life.client.sleep("demo", "blog", SleepRequest(instance=server.instance.id, totals=[]))


async def test_it_is_started_as_a_window_begins_and_sleeps_after_it(world: World) -> None:
    set_clock(world, "2026-11-25T08:59:59.8")
    async with world.up() as life:
        await scheduled(life)
        assert (await life.client.get("demo", "blog")).state == "asleep"
        server = await life.until("awake")
        assert (server.cause, server.actor) == ("its schedule", "schedule")
        assert world.now() >= at("2026-11-25T09:00:00")
        result = await sleep(life)
        assert not result.slept and "schedule" in result.reason
        set_clock(world, "2026-11-25T17:00:01")
        await looks(life)
        assert (await life.client.get("demo", "blog")).state == "awake", "its end alone stops nothing"
        assert (await sleep(life)).slept
        await life.until("asleep")
        await looks(life)
        assert world.driver.count("start") == 1


async def test_one_that_is_made_in_a_window_is_started(world: World) -> None:
    set_clock(world, "2026-11-25T12:00:00")
    async with world.up() as life:
        await scheduled(life)
        await life.until("awake")


async def test_a_window_that_began_while_nobody_looked(world: World) -> None:
    """The API was down as it began."""
    set_clock(world, "2026-11-25T08:00:00")
    async with world.up() as life:
        await scheduled(life)
    set_clock(world, "2026-11-25T10:00:00")
    async with world.up() as life:
        await life.until("awake")


async def test_what_ends_in_a_window_is_started_again(world: World) -> None:
    set_clock(world, "2026-11-25T12:00:00")
    async with world.up() as life:
        await scheduled(life)
        first = (await life.until("awake")).instance
        assert first is not None
        world.driver.end(first.id)
        await life.until("asleep")
        again = (await life.until("awake")).instance
        assert again is not None and again.id != first.id


async def test_a_users_stop_holds_until_the_next_window_or_a_visit(world: World) -> None:
    set_clock(world, "2026-11-25T12:00:00")
    async with world.up() as life:
        await scheduled(life)
        await life.until("awake")
        await life.client.stop("demo", "blog", wait=5)
        await looks(life)
        assert (await life.client.get("demo", "blog")).state == "asleep"
    async with world.up() as life:  # also over a restart
        await life.service.recovered.wait()
        await looks(life)
        assert (await life.client.get("demo", "blog")).state == "asleep"
        set_clock(world, "2026-11-27T09:00:01")
        await life.until("awake")
        await life.client.stop("demo", "blog", wait=5)
        await life.client.start("demo", "blog", VISIT, wait=5)
        assert not (await sleep(life)).slept, "wanted again, it is kept awake"


async def test_what_had_given_up_is_tried_again_as_a_window_begins(world: World) -> None:
    set_clock(world, "2026-11-25T08:00:00")
    async with world.up() as life:
        world.script("demo", "blog", Script(fail="no"))
        await life.create(spec={"sleep": NINE_TO_FIVE, "wake": {"tries": 1}}, script=Script(fail="no"))
        with pytest.raises(Exception, match="tries are used up"):
            await life.client.start("demo", "blog", VISIT, wait=5)
        starts = world.driver.count("start")
        set_clock(world, "2026-11-25T09:00:01")
        async with asyncio.timeout(5):
            while world.driver.count("start") == starts:
                await looks(life, 1)
        server = await life.until("failed")
        assert (server.given_up, server.retry_at is not None, server.desired) == (False, True, "awake")


async def test_a_clock_that_is_set_stops_nothing_and_starts_nothing_twice(world: World) -> None:
    """Forward and back by hours, over the window's ends: what runs goes on, and nobody runs in circles."""
    set_clock(world, "2026-11-25T12:00:00")
    async with world.up() as life:
        await scheduled(life)
        await life.create(project="other", spec={"sleep": {"max_lifetime": 7200, "min_awake": 60}})
        await life.client.start("demo", "other", VISIT, wait=5)
        await life.until("awake")
        writes = 0
        transact = life.service.context.store.transact

        async def counted(expected: Any, operations: Sequence[Operation]) -> int:
            nonlocal writes
            writes += any(operation.key.startswith(SERVERS) for operation in operations)
            return await transact(expected, operations)

        life.service.context.store.transact = counted  # type: ignore[method-assign]
        for text in ("2026-11-25T18:00:00", "2026-11-25T06:00:00", "2026-11-27T12:00:00", "2026-11-25T12:00:00"):
            set_clock(world, text)
            for worker in life.service._workers.values():
                worker.notify()
            await looks(life)
            assert {server.state for server in await life.client.list()} == {"awake"}
        assert writes == 0
        assert world.driver.count("start") == 2


async def test_a_failed_start_is_not_held_back_for_hours_by_a_clock_that_was_set(world: World) -> None:
    async with world.up() as life:
        await life.create(script=Script(fail="no"))
        with pytest.raises(Exception, match="did not start"):
            await life.client.start("demo", "blog", VISIT, wait=5)
        world.clock_set_by = -2 * HOUR
        world.driver.script("demo", "blog", Script(serves=True))
        assert (await life.client.start("demo", "blog", VISIT, wait=5)).state == "awake"


async def test_ten_thousand_servers_cost_nothing_until_something_changes(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is looked at once; then only the clock is, and one that changed."""
    set_clock(world, "2026-11-25T18:00:00")
    async with world.up() as life:
        await scheduled(life)
        await looks(life)
        worker, known = life.service.worker("demo", "blog"), life.service._timetable._workers
        looked = 0
        is_due = reasons.is_due

        def counted(*args: Any) -> Any:
            nonlocal looked
            looked += 1
            return is_due(*args)

        monkeypatch.setattr(timetable, "is_due", counted)
        known |= dict.fromkeys((f"demo/{number}" for number in range(10_000)), worker)
        await looks(life)
        assert looked == 0, "nothing changed"
        worker.notify()
        await looks(life)
        assert looked == 1
        set_clock(world, "2026-11-25T19:00:00")  # the clock was set: all of them, once
        while looked < 10_001:
            await looks(life, 1)
        await looks(life)
        assert looked <= 10_003
