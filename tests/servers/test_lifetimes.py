"""The longest lifetime of an instance: used or not, and whatever the wall clock says."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.servers.world import Life, World

from sourcelair.client.servers import Server, SleepRequest, StartRequest
from sourcelair.servers import machine

pytestmark = pytest.mark.anyio

VISIT = StartRequest(cause="visit")


async def awake(life: Life, **changes: Any) -> Server:
    await life.create(**changes)
    return await life.client.start("demo", "blog", VISIT, wait=5)


async def test_its_end_is_an_explicit_stop_that_no_user_asked_for(life: Life) -> None:
    await awake(life, spec={"sleep": {"max_lifetime": 0.2}})
    server = await life.until("asleep")
    assert (server.cause, server.actor) == (machine.LIFETIME_OVER, "policy")
    assert server.last_exit is not None and server.last_exit.expected
    assert machine.LIFETIME_OVER in server.last_exit.reason
    assert (await life.client.start("demo", "blog", VISIT, wait=5)).state == "awake"


async def test_what_is_kept_awake_starts_the_next_one_at_once(life: Life) -> None:
    await life.create(always_on=True, spec={"sleep": {"max_lifetime": 0.2}})
    first = (await life.until("awake")).instance
    await life.until("asleep")
    again = (await life.until("awake")).instance
    assert first and again and first.id != again.id


async def test_what_dozes_ends_too(life: Life) -> None:
    server = await awake(life, spec={"sleep": {"max_lifetime": 0.5}})
    assert server.instance is not None
    request = SleepRequest(instance=server.instance.id, totals=[], mode="doze")
    assert (await life.client.sleep("demo", "blog", request)).slept
    assert (await life.until("asleep")).actor == "policy"


async def test_a_limit_that_is_set_later_counts_from_the_beginning(life: Life) -> None:
    """And it is noticed at once, though nothing of the process changed."""
    server = await awake(life)
    assert server.instance is not None
    age = life.service.worker("demo", "blog").age()
    await life.create(spec={"sleep": {"max_lifetime": age + 0.2}})
    async with asyncio.timeout(5):
        await life.until("asleep")


async def test_an_older_boot_of_the_api_counts(world: World) -> None:
    """What is adopted is as old as its record says."""
    async with world.up() as life:
        await awake(life, spec={"sleep": {"max_lifetime": 3600}})
    world.clock_set_by = 3601  # as if it had been down for an hour
    async with world.up() as life:
        assert (await life.until("asleep")).actor == "policy"


@pytest.mark.parametrize("hours", [-5, 5])
async def test_a_wall_clock_that_is_set_ends_nothing(life: Life, hours: int) -> None:
    await awake(life, spec={"sleep": {"max_lifetime": 3600}})
    life.world.clock_set_by = hours * 3600
    worker = life.service.worker("demo", "blog")
    for _ in range(20):
        worker.notify()
        await asyncio.sleep(0)
    assert worker.record.state == "awake" and not worker.stop_asked
