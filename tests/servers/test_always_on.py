"""Servers that are always on: no idle stop is for them, an explicit one is."""

from __future__ import annotations

import asyncio
import json

import pytest
from tests.servers.world import Life, World

from sourcelair.client.servers import SleepRequest, StartRequest
from sourcelair.servers import machine
from sourcelair.servers.records import ServerRecord, decode
from sourcelair.store.sqlite import open_sqlite

pytestmark = pytest.mark.anyio

HOST = "blog--demo.localhost"
VISIT = StartRequest(cause="visit")


async def test_made_always_on_while_it_is_about_to_sleep_it_stays_awake(life: Life) -> None:
    """The same instance, published again."""
    life.world.settings.idle_drain_timeout = 30
    await life.create()
    server = await life.client.start("demo", "blog", VISIT, wait=5)
    assert server.instance is not None
    await life.world.ceryx.register_node("quiet")
    request = SleepRequest(instance=server.instance.id, totals=[])
    sleeping = asyncio.ensure_future(life.client.sleep("demo", "blog", request))
    await life.until("draining")
    await life.create(always_on=True)
    result = await sleeping
    assert (result.slept, result.reason) == (False, "it is always on")
    after = await life.until("awake")
    assert after.instance is not None and after.instance.id == server.instance.id
    assert (await life.world.ceryx.get_route(HOST)).target is not None


async def test_made_always_on_too_late_it_is_started_again(life: Life) -> None:
    """An idle stop that can't be taken back any more."""
    await life.create()
    server = await life.client.start("demo", "blog", VISIT, wait=5)
    assert server.instance is not None
    gate = life.world.driver.block("stop")
    await life.client.sleep("demo", "blog", SleepRequest(instance=server.instance.id, totals=[]))
    await gate.reached.wait()
    await life.create(always_on=True)
    gate.release()
    after = await life.until("awake")
    assert after.instance is not None and after.instance.id != server.instance.id


async def record_of(world: World) -> ServerRecord:
    store = await open_sqlite(world.directory / "servers.db")
    entry = await store.get("/servers/demo/blog")
    await store.close()
    assert entry is not None
    return decode(ServerRecord, entry)


async def change_record(world: World, **changes: object) -> None:
    store = await open_sqlite(world.directory / "servers.db")
    entry = await store.get("/servers/demo/blog")
    assert entry is not None
    await store.put(entry.key, json.dumps({**json.loads(entry.value), **changes}).encode())
    await store.close()


async def test_a_restart_wakes_one_that_an_idle_stop_left_asleep(world: World) -> None:
    """Whatever the record says that is wanted."""
    async with world.up() as life:
        await life.create()
    await change_record(world, always_on=True, desired="asleep", cause="idle")
    async with world.up() as life:
        assert (await life.until("awake")).desired == "awake"


async def test_one_that_a_user_stopped_stays_so_over_a_restart(world: World) -> None:
    """An explicit stop is for every server."""
    async with world.up() as life:
        await life.create(always_on=True)
        await life.until("awake")
        await life.client.stop("demo", "blog", wait=5)
    assert (await record_of(world)).desired == "asleep"
    async with world.up() as life:
        await life.service.recovered.wait()
        assert (await life.client.get("demo", "blog")).state == "asleep"
        assert world.driver.count("start") == 0


async def test_an_idle_stop_does_not_change_what_is_wanted_of_one_that_is_always_on(life: Life) -> None:
    await life.create()
    await life.client.start("demo", "blog", VISIT, wait=5)
    record = life.service.worker("demo", "blog").record
    for always_on, desired in ((True, "awake"), (False, "asleep")):
        draining = machine.begin_drain(record.model_copy(update={"always_on": always_on}), "idle", 0, 1)
        assert machine.begin_stopping(draining, 0).desired == desired
