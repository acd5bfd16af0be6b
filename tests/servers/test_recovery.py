"""The control plane is killed, and comes back: nothing lost, nothing started twice, nothing left behind."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from tests.servers.world import Life, World, a_world, error_of

from sourcelair.client.ceryx import Route, RouteSettings, RouteWrite
from sourcelair.client.policy import QuietRule
from sourcelair.client.servers import SleepRequest, StartRequest
from sourcelair.servers.drivers.mock import Script
from sourcelair.servers.records import ServerRecord, decode, encode
from sourcelair.store.sqlite import open_sqlite

pytestmark = pytest.mark.anyio

HOST = "blog--demo.localhost"
VISIT = StartRequest(cause="visit")


async def test_what_runs_is_adopted(world: World) -> None:
    async with world.up() as life:
        await life.create()
        before = await life.client.start("demo", "blog", VISIT, wait=5)
    async with world.up() as life:
        await life.service.context.ready.wait()
        after = await life.client.start("demo", "blog", VISIT, wait=5)
        assert before.instance and after.instance and before.instance.id == after.instance.id
        assert world.driver.count("start") == 0
        route = await world.ceryx.get_route(HOST)
        assert route.target is not None
        assert route.revision > (before.route_revision or 0), "every route is written once after a restart"
        await life.client.stop("demo", "blog", wait=5)
        assert await world.driver.find_all() == []


async def test_routes_with_long_settings_are_written_in_as_many_parts_as_it_takes(life: Life) -> None:
    """Of many servers that one owner gives as many quiet rules as it can: not more than is good for one write."""
    rules = [QuietRule(path=f"/{number}{'x' * 450}") for number in range(17)]
    hosts = [(f"h{number}.example.com", RouteSettings(quiet=rules)) for number in range(1200)]
    async with asyncio.timeout(30):
        revision = await life.service.context.publisher.withdraw_all(hosts)
    routes, _ = await life.world.ceryx.list_routes()
    written = [route for route in routes if route.settings.quiet == rules]
    assert len(written) == len(hosts)
    assert max(route.revision for route in written) == revision
    assert len({route.revision for route in written}) > 2


async def test_what_ended_meanwhile_sleeps(world: World) -> None:
    async with world.up() as life:
        await life.create()
        server = await life.client.start("demo", "blog", VISIT, wait=5)
        assert server.instance is not None
    world.driver.end(server.instance.id)
    async with world.up() as life:
        await life.until("asleep")
        assert (await world.ceryx.get_route(HOST)).target is None
        assert (await life.client.start("demo", "blog", StartRequest(), wait=5)).state == "awake"


@pytest.mark.parametrize("point", ["start", "started"])
async def test_killed_while_it_starts_one(world: World, point: str) -> None:
    """At every point of a start: afterwards there is one instance at most, and a visit finds it awake."""
    async with AsyncExitStack() as stack:
        life = await stack.enter_async_context(world.up())
        await life.create()
        gate = world.driver.block(point)  # type: ignore[arg-type]
        visit = asyncio.ensure_future(life.client.start("demo", "blog", VISIT, wait=0.01))
        await gate.reached.wait()
        await visit
        started = world.driver.count("start")
    async with world.up() as life:
        server = await life.client.start("demo", "blog", VISIT, wait=5)
        assert server.state == "awake"
        gate.release()  # what the dead control plane had on its way
        found = await world.driver.find_all()
        assert server.instance is not None
        assert [one.instance for one in found] == [server.instance.id]
        assert started == 1


async def test_killed_in_an_idle_drain_it_is_published_again(world: World) -> None:
    async with world.up() as life:
        await life.create()
        server = await life.client.start("demo", "blog", VISIT, wait=5)
        assert server.instance is not None
        await world.ceryx.register_node("quiet")
        request = SleepRequest(instance=server.instance.id, totals=[])
        sleeping = asyncio.ensure_future(life.client.sleep("demo", "blog", request))
        await life.until("draining")
    await asyncio.wait([sleeping])
    sleeping.exception()
    async with world.up() as life:
        again = await life.until("awake")
        assert again.instance is not None and again.instance.id == server.instance.id
        assert (await world.ceryx.get_route(HOST)).target is not None


async def test_killed_in_an_explicit_stop_it_goes_on(world: World) -> None:
    async with world.up() as life:
        await life.create()
        await life.client.start("demo", "blog", VISIT, wait=5)
        gate = world.driver.block("stop")
        stopping = asyncio.ensure_future(life.client.stop("demo", "blog", wait=5))
        await gate.reached.wait()
        stopping.cancel()
    async with world.up() as life:
        await life.until("asleep")
        assert await world.driver.find_all() == []


async def test_instances_that_no_record_names_are_ended(world: World) -> None:
    async with world.up() as life:
        await life.create()
        await life.client.start("demo", "blog", VISIT, wait=5)
    (world.directory / "servers.db").unlink()
    for rest in world.directory.glob("servers.db-*"):
        rest.unlink()
    async with world.up() as life:
        await life.service.context.ready.wait()
        async with asyncio.timeout(5):
            while await world.driver.find_all():
                await asyncio.sleep(0.01)
        assert await error_of(world.ceryx.get_route(HOST)), "its route is gone too"


async def test_a_late_write_of_the_dead_lands_as_nothing(world: World) -> None:
    async with world.up() as life:
        await life.create()
        await life.client.start("demo", "blog", VISIT, wait=5)
        old = await world.ceryx.get_route(HOST)
    async with world.up() as life:
        await life.service.context.ready.wait()
        await life.client.stop("demo", "blog", wait=5)
        late = RouteWrite(source=HOST, route=Route(source=HOST, target=old.target), expect=old.revision)
        assert await error_of(world.ceryx.batch([late], managed_by="sourcelair-api"))
        assert (await world.ceryx.get_route(HOST)).target is None


async def test_ports_stay_in_quarantine(tmp_path: Path) -> None:
    async with a_world(tmp_path, node_lease=0.2) as world:
        async with world.up() as life:
            await life.create(spec={"sleep": {"drain_timeout": 0}})
            await world.ceryx.register_node("quiet")
            server = await life.client.start("demo", "blog", VISIT, wait=5)
            await life.client.stop("demo", "blog", wait=5)
            assert server.instance is not None
        async with world.up() as life:
            await life.service.context.ready.wait()
            assert server.instance.port in life.service.context.ports._taken
            while [node.state for node in await world.ceryx.nodes()] != ["silent"]:
                await asyncio.sleep(0.02)
            await world.ceryx.remove_node("quiet")
            await _until_free(life, server.instance.port or 0)


async def _until_free(life: Life, port: int) -> None:
    while port in life.service.context.ports._taken:
        await asyncio.sleep(0.01)


async def test_servers_that_were_waiting_for_a_start_are_started(world: World) -> None:
    async with world.up() as life:
        await life.create(always_on=True, script=Script(serves=True, start_delay=30))
        await life.until("starting")
    world.script("demo", "blog", Script(serves=True))
    async with world.up() as life:
        await life.until("awake")


@pytest.mark.parametrize("state", ["starting", "awake"])
async def test_closing_changes_nothing(world: World, state: str) -> None:
    """The end of the control plane is not the end of an instance: no last step is taken about it."""
    async with world.up() as life:
        await life.create(script=Script(serves=True, listens=state == "awake"))
        asking = asyncio.ensure_future(life.client.start("demo", "blog", VISIT, wait=0.01))
        server = await life.until(state)
        await asking
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("server ")]
    store = await open_sqlite(world.directory / "servers.db")
    entry = await store.get(life.service.worker("demo", "blog").record.key)
    await store.close()
    assert entry is not None and server.instance is not None
    record = decode(ServerRecord, entry)
    assert (record.state, record.instance_id) == (state, server.instance.id)


async def test_a_server_whose_driver_is_gone_holds_up_no_other(world: World) -> None:
    """Nobody is sent to what can't be looked at; everybody else's servers come back."""
    async with world.up() as life:
        for project in ("blog", "lost"):
            await life.create(project=project)
            await life.client.start("demo", project, VISIT, wait=5)
    store = await open_sqlite(world.directory / "servers.db")
    entry = await store.get("/servers/demo/lost")
    assert entry is not None
    record = decode(ServerRecord, entry)
    assert record.instance is not None
    instance = record.instance.model_copy(update={"driver": "gone"})
    await store.put(entry.key, encode(record.model_copy(update={"instance": instance})))
    await store.close()
    async with world.up() as life:
        async with asyncio.timeout(5):
            await life.service.recovered.wait()
        assert (await world.ceryx.get_route(HOST)).target is not None
        assert (await world.ceryx.get_route("lost--demo.localhost")).target is None
        assert (await life.client.stop("demo", "blog", wait=5)).state == "asleep"
