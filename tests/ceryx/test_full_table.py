"""A node's table is full: who writes a route that nobody can reach is told so, and it is served once there is room."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.ceryx.agents import alive, asleep, eventually, live, make_agent
from tests.ceryx.conftest import Ceryx
from tests.ceryx.engine import MemoryEngine

from sourcelair.client.ceryx import RouteWrite
from sourcelair.errors import NotFound, OutOfSpace

pytestmark = pytest.mark.anyio


def write(source: str, port: int = 8000) -> RouteWrite:
    return RouteWrite(source=source, route=live(source, port))


async def test_the_capacity_is_taken_from_every_hello(api: Ceryx, tmp_path: Path) -> None:
    """What NGINX says later counts, not what it said when the agent connected."""
    engine = MemoryEngine(capacity=1000)
    async with alive(make_agent(tmp_path, api.url, engine)):
        await engine.until(lambda it: it.loaded)
        await eventually(lambda: api.service.nodes.capacity() == 1000)
        engine.capacity = 2
        await eventually(lambda: api.service.nodes.capacity() == 2)
        await api.client().batch([write("a"), write("b")])
        with pytest.raises(OutOfSpace, match="2 routes"):
            await api.client().put_route(live("c"))


async def test_a_new_route_that_does_not_fit_is_a_507_and_is_not_stored(api: Ceryx, tmp_path: Path) -> None:
    """Also where the node said that there was room; and its writer alone is told, all others are served."""
    client, engine = api.client("admin"), MemoryEngine(capacity=3, published=1000)
    async with alive(make_agent(tmp_path, api.url, engine)):
        await engine.until(lambda it: it.loaded)
        for name in "abc":
            assert (await client.batch([write(name)])).served
        with pytest.raises(OutOfSpace, match="nothing was stored"):
            await client.put_route(live("d"))
        with pytest.raises(NotFound):
            await client.get_route("d")
        with pytest.raises(OutOfSpace, match="nothing was stored"):
            await client.batch([write("e"), write("f")])
        assert [route.source for route in (await client.list_routes())[0]] == ["a", "b", "c"]
        assert api.service.routes.count == 3
        assert (await client.batch([write("a", 9000)])).served
        assert set(engine.routes()) == {"a", "b", "c"}


async def test_a_newer_write_of_a_refused_route_is_not_lost_when_nginx_was_away(api: Ceryx, tmp_path: Path) -> None:
    """What was refused waits for its time after a reconnect; what came since is tried, and refused by its own name."""
    client, engine = api.client(), MemoryEngine(capacity=1, published=1000)
    await client.batch([write("a"), write("b")])
    async with alive(make_agent(tmp_path, api.url, engine)):
        await engine.until(lambda it: it.loaded)
        node = api.service.nodes.get("n1")
        await eventually(lambda: len(node.refused) == 1)
        (left,) = node.refused
        engine.running = False
        await eventually(lambda: not node.loaded)
        revision = (await client.batch([write(left, 9000)])).revision
        engine.running = True
        await eventually(lambda: node.loaded and node.applied >= revision)
        assert node.refused == {left: revision}
        assert left not in engine.routes()


async def test_what_changes_other_routes_too_stays_and_says_so(api: Ceryx, tmp_path: Path) -> None:
    """A batch is never half taken back: 507 for a client, and not served for a manager."""
    client, engine = api.client(), MemoryEngine(capacity=2, published=1000)
    async with alive(make_agent(tmp_path, api.url, engine)):
        await engine.until(lambda it: it.loaded)
        await client.batch([write("a"), write("b")])
        with pytest.raises(OutOfSpace, match="stored at revision") as caught:
            await client.batch([RouteWrite(source="a", route=asleep("a")), write("c")])
        assert caught.value.extra["source"] == "c"
        assert caught.value.extra["revision"] == (await client.get_route("c")).revision
        assert engine.table["a"].state == "null"
        assert (await client.batch([write("b", 9000)])).served


async def test_a_manager_is_told_that_it_is_not_served(api: Ceryx, tmp_path: Path) -> None:
    """It writes until it has written: an error about a route that is stored would make it do so for ever."""
    client, engine = api.client(), MemoryEngine(capacity=1)
    await client.batch([write("a")], managed_by="me")
    await client.batch([write("b")], managed_by="me")
    engine.published = 1000
    async with alive(make_agent(tmp_path, api.url, engine)):
        await engine.until(lambda it: it.loaded)
        await eventually(lambda: bool(api.service.nodes.get("n1").refused))
        (left,) = api.service.nodes.get("n1").refused
        result = await client.batch([write(left, 9000)], managed_by="me")
        assert not result.served
        assert (await client.get_route(left)).revision == result.revision


async def test_refused_routes_are_tried_again_without_any_event(api: Ceryx, tmp_path: Path) -> None:
    """Room comes back when tombstones go, and nothing tells of that."""
    client, engine = api.client(), MemoryEngine(capacity=30)
    await client.batch([write(f"h{number}") for number in range(40)])
    async with alive(make_agent(tmp_path, api.url, engine)):
        await engine.until(lambda it: it.loaded and len(it.routes()) == 30)
        await eventually(lambda: len(api.service.nodes.get("n1").refused) == 10)
        engine.capacity = 100
        await engine.until(lambda it: len(it.routes()) == 40)
        await eventually(lambda: not api.service.nodes.get("n1").refused)


async def test_a_table_that_is_far_too_small_is_not_asked_for_every_route(api: Ceryx, tmp_path: Path) -> None:
    """After some refusals the rest of a round is refused unasked; all of it is told, or held back."""
    client, engine = api.client(), MemoryEngine(capacity=10)
    result = await client.batch([write(f"h{number:04}") for number in range(3000)])
    tries = 0

    async def count(entries: object) -> None:
        nonlocal tries
        tries += 1

    engine.before_apply = count
    async with alive(make_agent(tmp_path, api.url, engine)):
        await engine.until(lambda it: it.loaded)
        await eventually(lambda: len(api.service.nodes.get("n1").refused) == 1000)  # a report may come in between
        assert tries < 50
        node = api.service.nodes.get("n1")
        assert node.applied < result.revision, "the refused that are not named hold the revision back"
