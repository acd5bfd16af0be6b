"""Public hosts: one owner each, also when `domain` changes and when the proxies have no room for more."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from tests.servers.world import Life, World, error_of

from sourcelair.client.ceryx import NodeReport, RouteSettings
from sourcelair.client.servers import ServerInput, Spec, StartRequest
from sourcelair.errors import Conflict, NotFound, OutOfSpace
from sourcelair.store.base import Compare, Operation

pytestmark = pytest.mark.anyio

VISIT = StartRequest(cause="visit")
NODE = "full"


async def target(world: World, host: str) -> str | None:
    return (await world.ceryx.get_route(host)).target


async def test_an_extra_host_that_becomes_its_own_is_one_host(world: World) -> None:
    """After a change of domain the host that it was given may be the one that it has by itself."""
    async with world.up() as life:
        await life.create(hosts=["blog--demo.example.com"])
    world.settings = world.settings.model_copy(update={"domain": "example.com"})
    async with world.up() as life:
        await life.service.recovered.wait()
        server = await life.client.start("demo", "blog", VISIT, wait=5)
        assert server.hosts == ["blog--demo.example.com"]
        await life.as_("owner-demo").put("demo", "blog", ServerInput(spec=Spec(driver="mock")))


async def test_a_servers_own_host_is_never_anothers(world: World) -> None:
    """Whether or not the server of that name exists; what was given is kept, and comes back with its domain."""
    async with world.up() as life:
        await life.create(hosts=["site--other.example.com", "nobody--other.example.com", "www.example.com"])
        await life.create("other", "site")
    before, world.settings = world.settings, world.settings.model_copy(update={"domain": "example.com"})
    async with world.up() as life:
        await life.service.recovered.wait()
        assert (await life.client.get("demo", "blog")).hosts == ["blog--demo.example.com", "www.example.com"]
        await life.client.start("demo", "blog", VISIT, wait=5)
        assert await target(world, "www.example.com") is not None
        assert await target(world, "site--other.example.com") is None
        assert isinstance(await error_of(world.ceryx.get_route("nobody--other.example.com")), NotFound)
        found = await life.client.list(host="site--other.example.com")
        assert [(server.owner, server.project) for server in found] == [("other", "site")]
        await life.create("other", "nobody")
        await life.client.start("other", "nobody", VISIT, wait=5)
        await life.client.delete("other", "nobody", wait=5)
    world.settings = before
    async with world.up() as life:
        await life.service.recovered.wait()
        assert "nobody--other.example.com" in (await life.client.get("demo", "blog")).hosts


async def test_a_name_whose_host_another_has_is_refused(life: Life) -> None:
    """Whatever way that came about, no host has two owners."""
    await life.create()
    service = life.service
    service._by_host["site--other.localhost"] = service.worker("demo", "blog")
    error = await error_of(life.create("other", "site"))
    assert isinstance(error, Conflict) and "demo/blog" in error.detail


@pytest.fixture
async def full(life: Life) -> Life:
    """One server that is awake, and no room for another route."""
    await life.create(spec={"sleep": {"drain_timeout": 0}})
    await life.client.start("demo", "blog", VISIT, wait=5)
    await life.world.ceryx.register_node(NODE)
    report = NodeReport(session=1, generation="g1", applied=0, routes=1, capacity=1)
    await life.world.ceryx.report(NODE, report)
    return life


async def test_a_host_for_which_there_is_no_room_changes_nothing(full: Life) -> None:
    """The server goes on as it was, and can be stopped, started and removed."""
    spec = Spec(driver="mock", sleep={"drain_timeout": 0})  # type: ignore[arg-type]
    error = await error_of(full.client.put("demo", "blog", ServerInput(spec=spec, hosts=["www.example.com"])))
    assert isinstance(error, OutOfSpace)
    server = await full.client.get("demo", "blog")
    assert (server.state, server.hosts) == ("awake", ["blog--demo.localhost"])
    assert isinstance(await error_of(full.create("demo", "another")), OutOfSpace)
    assert (await full.client.stop("demo", "blog", wait=5)).state == "asleep"
    assert (await full.client.start("demo", "blog", VISIT, wait=5)).state == "awake"
    await full.client.delete("demo", "blog", wait=5)
    assert (await full.world.ceryx.list_routes())[0] == []


async def test_a_record_that_can_not_be_stored_leaves_no_route(life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    """The route comes before the record: without that it is taken back."""
    await life.create()

    async def no_space(compares: Sequence[Compare], operations: Sequence[Operation]) -> int:
        raise OutOfSpace("The disk is full.")

    with monkeypatch.context() as patch:
        patch.setattr(life.service.context.store, "transact", no_space)
        assert isinstance(await error_of(life.create(hosts=["www.example.com"])), OutOfSpace)
        assert isinstance(await error_of(life.create("demo", "another")), OutOfSpace)
    routes, _ = await life.world.ceryx.list_routes()
    assert [route.source for route in routes] == ["blog--demo.localhost"]
    assert (await life.client.get("demo", "blog")).hosts == ["blog--demo.localhost"]
    assert (await life.create("demo", "another", hosts=["www.example.com"])).state == "asleep"


async def test_routes_of_a_server_that_was_never_stored_are_removed(world: World) -> None:
    """A crash between the route and the record."""
    async with world.up() as life:
        await life.create()
        await life.service.context.publisher.publish(["lost--demo.localhost"], None, RouteSettings())
    async with world.up() as life:
        await life.service.recovered.wait()
        routes, _ = await world.ceryx.list_routes()
        assert [route.source for route in routes] == ["blog--demo.localhost"]
