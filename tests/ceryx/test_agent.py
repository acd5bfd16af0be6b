"""The agent between a real API (over HTTP) and an engine in memory."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest
from tests.ceryx.agents import Standstill, alive, asleep, eventually, live, make_agent
from tests.ceryx.conftest import Ceryx, listening, running
from tests.ceryx.engine import MemoryEngine

from sourcelair.ceryx.models import route_key
from sourcelair.ceryx.table import TableEntry
from sourcelair.client.ceryx import Route, RouteWrite
from sourcelair.errors import LairError

pytestmark = pytest.mark.anyio


async def test_routes_are_served_when_their_write_is_answered(api: Ceryx, tmp_path: Path) -> None:
    """Whoever reads the answer of a write finds it in NGINX: what was there before, and what comes after."""
    client, engine = api.client(), MemoryEngine()
    await client.put_route(live("before"))
    async with alive(make_agent(tmp_path, api.url, engine)):
        await engine.until(lambda it: it.loaded)
        assert engine.introduced == ("n1", "http://127.0.0.1:7070/waker", "secret")
        await eventually(lambda: any(node.applied >= 0 for node in api.service.nodes.all()))
        for port in range(20):
            result = await client.batch([RouteWrite(source="a", route=live("a", 9000 + port, "i1"))])
            assert result.served
            assert engine.table["a"].port == 9000 + port
        await client.batch([RouteWrite(source="a")])
        assert set(engine.routes()) == {"before"}


async def test_every_kind_of_route_becomes_its_entry(api: Ceryx, tmp_path: Path) -> None:
    """Live, asleep, redirect, https, IPv6, localhost: as the engine needs them."""
    client, engine = api.client(), MemoryEngine()
    routes = [
        Route(source="a", target="http://10.0.0.1", instance="i"),
        Route(source="b", target="https://[::1]:8443"),
        Route(source="c", target="http://localhost:3000", settings={"enforce_https": True}),
        Route(source="d", target="https://new.example.org/x", settings={"mode": "redirect"}),
        asleep("e"),
        Route(source="$wildcard", target="http://127.0.0.1:1"),
    ]
    result = await client.batch([RouteWrite(source=route.source, route=route) for route in routes])
    async with alive(make_agent(tmp_path, api.url, engine)):
        await engine.until(lambda it: it.loaded)
    revision = result.revision
    assert engine.routes() == {
        "a": TableEntry("a", revision, "live", "10.0.0.1", 80, "i"),
        "b": TableEntry("b", revision, "live", "::1", 8443, tls=True),
        "c": TableEntry("c", revision, "live", "127.0.0.1", 3000, enforce_https=True),
        "d": TableEntry("d", revision, "redirect", location="https://new.example.org/x"),
        "e": TableEntry("e", revision, "null", waker="http://127.0.0.1:7070/waker"),
        "$wildcard": TableEntry("$wildcard", revision, "live", "127.0.0.1", 1),
    }


async def test_a_withdrawal_is_proven_with_the_counts(api: Ceryx, tmp_path: Path) -> None:
    """Asked, the node answers after applying; again when counts fall; drained when nothing is in flight."""
    client, engine = api.client(), MemoryEngine()
    await client.put_route(live("a", instance="i1"))
    async with alive(make_agent(tmp_path, api.url, engine)):
        await engine.until(lambda it: it.loaded)
        engine.count("i1", in_flight=2, streams=1, total=7)
        revision = (await client.batch([RouteWrite(source="a", route=asleep("a"))])).revision
        state = await client.withdrawal("i1", revision, until="acknowledged", wait=10)
        assert state.acknowledged and not state.drained and not state.drained_but_streams
        assert (state.nodes[0].in_flight, state.nodes[0].streams, state.nodes[0].total) == (2, 1, 7)
        quiet = asyncio.create_task(client.withdrawal("i1", revision, until="quiet", wait=10))
        drained = asyncio.create_task(client.withdrawal("i1", revision, until="drained", wait=10))
        engine.count("i1", in_flight=1)
        assert (await quiet).drained_but_streams
        assert not drained.done()
        engine.count("i1", in_flight=0, streams=0)
        assert (await drained).drained


async def test_nothing_is_promised_of_a_live_target(api: Ceryx, tmp_path: Path) -> None:
    """An ask for a revision that never withdrew the instance is not acknowledged."""
    client, engine = api.client(), MemoryEngine()
    revision = await client.put_route(live("a", instance="i1"))
    async with alive(make_agent(tmp_path, api.url, engine)):
        await engine.until(lambda it: it.loaded)
        state = await client.withdrawal("i1", revision, until="acknowledged", wait=0.3)
        assert not state.acknowledged


async def test_a_replaced_instance_is_withdrawn_too(api: Ceryx, tmp_path: Path) -> None:
    """An entry of another instance is the first one's withdrawal."""
    client, engine = api.client(), MemoryEngine()
    await client.put_route(live("a", instance="i1"))
    async with alive(make_agent(tmp_path, api.url, engine)):
        await engine.until(lambda it: it.loaded)
        revision = await client.put_route(live("a", 8001, instance="i2"))
        assert (await client.withdrawal("i1", revision, until="drained", wait=10)).drained
        assert not (await client.withdrawal("i2", revision, until="drained", wait=0.1)).drained


async def test_many_withdrawals_at_once(api: Ceryx, tmp_path: Path) -> None:
    """A thousand waiters are answered by few readings."""
    client, engine = api.client(), MemoryEngine()
    names = [f"h{number}" for number in range(300)]
    await client.batch([RouteWrite(source=name, route=live(name, instance=f"i-{name}")) for name in names])
    async with alive(make_agent(tmp_path, api.url, engine)):
        await engine.until(lambda it: it.loaded)
        revision = (await client.batch([RouteWrite(source=name, route=asleep(name)) for name in names])).revision
        states = await asyncio.gather(
            *(client.withdrawal(f"i-{name}", revision, until="drained", wait=20) for name in names)
        )
        assert all(state.drained for state in states)


async def test_activity_reaches_the_api(api: Ceryx, tmp_path: Path) -> None:
    """Counts are summed, robots keep nothing awake, and silence leaves the last activity as it was."""
    client, engine = api.client(), MemoryEngine()
    await client.put_route(live("a", instance="i1"))
    await client.put_route(live("b", instance="i2"))
    async with alive(make_agent(tmp_path, api.url, engine)):
        await engine.until(lambda it: it.loaded)
        engine.count("i1", in_flight=3, total=5, robots=1, robots_in_flight=1)
        engine.count("i2", in_flight=1, total=4, robots=4, robots_in_flight=1)
        await eventually(lambda: api.service.nodes.get("n1").counts.get("i1").total == 5)
        visited, robots, unknown = await client.activity(["i1", "i2", "i3"])
        assert (visited.in_flight, visited.active) == (3, 2) and visited.last_active is not None
        assert (robots.in_flight, robots.active, robots.last_active) == (1, 0, None)
        assert (unknown.in_flight, unknown.last_active) == (0, None)
        assert [total.total for total in visited.totals + unknown.totals] == [5, 0]


async def test_nginx_restarts_and_is_filled_from_memory(api: Ceryx, tmp_path: Path) -> None:
    """A new generation gets all routes at once, and the acknowledgements of the old one are void."""
    client, engine = api.client(), MemoryEngine()
    await client.batch([RouteWrite(source=f"h{n}", route=live(f"h{n}", instance=f"i{n}")) for n in range(1200)])
    async with alive(make_agent(tmp_path, api.url, engine)):
        await engine.until(lambda it: it.loaded)
        revision = await client.put_route(asleep("h7"))
        assert (await client.withdrawal("i7", revision, until="drained", wait=10)).drained
        engine.restart()
        await engine.until(lambda it: it.loaded)
        assert len(engine.routes()) == 1200
        await eventually(lambda: api.service.nodes.get("n1").generation == engine.generation)
        state = await client.withdrawal("i7", revision, until="drained", wait=10)
        assert state.drained and state.nodes[0].generation == engine.generation


async def test_paths_are_filled_in_before_their_hosts(api: Ceryx, tmp_path: Path) -> None:
    """While NGINX is being filled it serves hosts already: none may take what is a longer prefix's."""
    client, engine = api.client(), MemoryEngine()
    routes = [live("a"), live("b"), live("b/x/y"), live("*.b"), live("b/x"), live("*.b/z", instance="i")]
    await client.batch([RouteWrite(source=route.source, route=route) for route in routes])
    async with alive(make_agent(tmp_path, api.url, engine)):
        await engine.until(lambda it: it.loaded)
        depths = [entry.source.count("/") for entry in engine.applied]
        assert depths == [2, 1, 1, 0, 0, 0]
        engine.applied.clear()
        engine.restart()
        await engine.until(lambda it: it.loaded)
    assert [entry.source.count("/") for entry in engine.applied] == depths


async def test_the_api_is_gone_and_comes_back(tmp_path: Path) -> None:
    """NGINX keeps its routes; afterwards only what changed is applied."""
    engine = MemoryEngine()
    async with running(tmp_path) as ceryx, listening(ceryx) as url:
        port = int(url.rpartition(":")[2])
        await ceryx.client().batch([RouteWrite(source=f"h{n}", route=live(f"h{n}")) for n in range(50)])
        agent = make_agent(tmp_path, url, engine)
        task = asyncio.create_task(agent.run())
        await engine.until(lambda it: it.loaded)
    try:
        async with running(tmp_path, served_wait=5.0) as ceryx:
            engine.applied.clear()
            async with listening(ceryx, port):
                await ceryx.client().put_route(live("h3", 9999))
                await engine.until(lambda it: it.table["h3"].port == 9999)
                await ceryx.client().delete_route("h4")
                await engine.until(lambda it: "h4" not in it.routes())
        assert {entry.source for entry in engine.applied} == {"h3", "h4"}
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await agent.client.close()


async def test_lost_history_leads_to_a_difference_not_a_blank(tmp_path: Path) -> None:
    """After a compaction the agent lists again, and tells NGINX only what differs."""
    engine = MemoryEngine()
    async with running(tmp_path) as ceryx, listening(ceryx) as url:
        port = int(url.rpartition(":")[2])
        await ceryx.client().batch([RouteWrite(source=f"h{n}", route=live(f"h{n}")) for n in range(50)])
        agent = make_agent(tmp_path, url, engine)
        task = asyncio.create_task(agent.run())
        await engine.until(lambda it: it.loaded)
    try:
        async with running(tmp_path) as ceryx:
            client = ceryx.client()
            await client.delete_route("h1")
            revision = await client.put_route(live("h2", 7777))
            await ceryx.store.compact(revision)
            engine.applied.clear()
            async with listening(ceryx, port):
                await engine.until(lambda it: it.table["h2"].port == 7777 and "h1" not in it.routes())
        assert {entry.source for entry in engine.applied} == {"h1", "h2"}
        assert len(engine.routes()) == 49
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await agent.client.close()


async def test_the_file_fills_nginx_while_the_api_is_down(tmp_path: Path) -> None:
    """A new agent and a new NGINX, no API: the last known routes are served."""
    engine = MemoryEngine()
    async with running(tmp_path) as ceryx, listening(ceryx) as url:
        client = ceryx.client()
        await client.batch([RouteWrite(source=f"h{n}", route=live(f"h{n}", instance=f"i{n}")) for n in range(50)])
        async with alive(make_agent(tmp_path, url, engine)):
            await engine.until(lambda it: it.loaded)
            await client.put_route(asleep("h1"))
            await client.delete_route("h2")
            await engine.until(lambda it: it.table["h1"].state == "null" and "h2" not in it.routes())
    before = engine.routes()
    engine.restart()
    agent = make_agent(tmp_path, url, engine)
    async with alive(agent):
        await engine.until(lambda it: it.loaded)
        assert engine.routes() == before
        assert agent.ready


async def test_after_a_reboot_local_targets_are_null(tmp_path: Path) -> None:
    """What listened on this machine is gone; what runs elsewhere is served."""
    engine = MemoryEngine()
    async with running(tmp_path) as ceryx, listening(ceryx) as url:
        client = ceryx.client()
        await client.put_route(live("here", host="127.0.0.1", instance="i1"))
        await client.put_route(live("there", host="10.9.9.9", instance="i2"))
        async with alive(make_agent(tmp_path, url, engine)):
            await engine.until(lambda it: it.loaded)
    engine.restart()
    agent = make_agent(tmp_path, url, engine)
    agent.boot_id = "another boot"
    async with alive(agent):
        await engine.until(lambda it: it.loaded)
    assert engine.table["here"].state == "null" and engine.table["here"].address is None
    assert engine.table["there"].state == "live"


@pytest.mark.parametrize("point", ["before_apply", "after_apply"])
async def test_killed_around_an_apply(api: Ceryx, tmp_path: Path, point: str) -> None:
    """Between journal and apply, or between apply and report: the next agent ends where the API is."""
    client, engine = api.client(), MemoryEngine()
    await client.put_route(live("a", instance="i1"))
    stop = Standstill()
    async with alive(make_agent(tmp_path, api.url, engine)):
        await engine.until(lambda it: it.loaded)
        setattr(engine, point, stop)
        write = asyncio.create_task(client.batch([RouteWrite(source="a", route=asleep("a"))]))
        await stop.reached.wait()
    setattr(engine, point, None)
    async with alive(make_agent(tmp_path, api.url, engine)):
        result = await write
        assert result.served
        assert engine.table["a"].state == "null"
        assert engine.session == 2
        assert (await client.withdrawal("i1", result.revision, until="drained", wait=10)).drained


async def test_killed_before_the_apply_with_the_api_down(tmp_path: Path) -> None:
    """The journal has the withdrawal that NGINX never got: the next agent brings it, without the API."""
    engine = MemoryEngine()
    stop = Standstill()
    async with running(tmp_path) as ceryx, listening(ceryx) as url:
        client = ceryx.client()
        await client.put_route(live("a", instance="i1"))
        async with alive(make_agent(tmp_path, url, engine)):
            await engine.until(lambda it: it.loaded)
            engine.before_apply = stop
            await client.put_route(asleep("a"))
            await stop.reached.wait()
    engine.before_apply = None
    assert engine.table["a"].state == "live"
    async with alive(make_agent(tmp_path, url, engine)):
        await engine.until(lambda it: it.table["a"].state == "null")


async def test_killed_before_a_deletion_comes_to_nginx(api: Ceryx, tmp_path: Path) -> None:
    """The journal no longer names the route that NGINX still has: the next agent finds it, and makes its promises."""
    client, engine = api.client(), MemoryEngine()
    await client.batch([RouteWrite(source=name, route=live(name, instance=f"i-{name}")) for name in "abcd"])
    stop = Standstill()
    async with alive(make_agent(tmp_path, api.url, engine)):
        await engine.until(lambda it: it.loaded)
        engine.before_apply = stop
        deleting = asyncio.create_task(client.batch([RouteWrite(source=name, route=None) for name in "bc"]))
        await stop.reached.wait()
    engine.before_apply = None
    assert sorted(engine.routes()) == ["a", "b", "c", "d"]
    async with alive(make_agent(tmp_path, api.url, engine)):
        result = await deleting
        await engine.until(lambda it: sorted(it.routes()) == ["a", "d"])
        assert (await client.withdrawal("i-b", result.revision, until="drained", wait=10)).drained


@pytest.mark.parametrize("api", ["there", "away"])
async def test_without_its_file_an_agent_takes_no_route_off(tmp_path: Path, api: str) -> None:
    """What NGINX serves stays until the API says what there is; what that does not name goes then."""
    engine = MemoryEngine()
    async with running(tmp_path) as ceryx, listening(ceryx) as url:
        client = ceryx.client()
        await client.batch([RouteWrite(source=name, route=live(name, instance=f"i-{name}")) for name in "abc"])
        async with alive(make_agent(tmp_path, url, engine)):
            await engine.until(lambda it: it.loaded and len(it.routes()) == 3)
        (tmp_path / "agent" / "routes").unlink()
        await ceryx.store.delete(route_key("c"))
        engine.applied.clear()
        if api == "there":
            async with alive(make_agent(tmp_path, url, engine)):
                await engine.until(lambda it: len(it.routes()) == 2)
            assert [(entry.source, entry.state) for entry in engine.applied] == [("c", "deleted")]
            return
    async with alive(agent := make_agent(tmp_path, url, engine)):
        await eventually(lambda: agent.ready)
        assert sorted(engine.routes()) == ["a", "b", "c"]
    assert engine.applied == []


async def test_nginx_starts_anew_while_it_is_read_back(api: Ceryx, tmp_path: Path) -> None:
    """The new one is filled, and not taken for the one that was read."""
    client, engine = api.client(), MemoryEngine()
    await client.put_route(live("a"))
    async with alive(make_agent(tmp_path, api.url, engine)):
        await engine.until(lambda it: it.loaded)
    read, loaded = engine.read, list[int]()

    async def restarts(sources: Sequence[str]) -> list[TableEntry | None]:
        found = await read(sources)
        engine.read = read  # type: ignore[method-assign]
        engine.restart()
        return found

    set_loaded = engine.set_loaded

    async def look(*introduction: str | None) -> None:
        loaded.append(len(engine.routes()))
        await set_loaded(*introduction)  # type: ignore[arg-type]

    engine.read, engine.set_loaded = restarts, look  # type: ignore[method-assign, assignment]
    async with alive(make_agent(tmp_path, api.url, engine)):
        await eventually(lambda: bool(loaded))
    assert loaded == [1]


async def test_a_newer_agent_ends_the_older_one(api: Ceryx, tmp_path: Path) -> None:
    """The older one's run returns; the newer one serves."""
    engine = MemoryEngine()
    async with alive(make_agent(tmp_path, api.url, engine)) as first:
        await engine.until(lambda it: it.loaded)
        async with alive(make_agent(tmp_path, api.url, engine)) as second:
            await eventually(lambda: engine.session == 2)
            await asyncio.wait_for(first, 10)
            assert not second.done()


async def test_a_burst_collapses_to_the_newest(api: Ceryx, tmp_path: Path) -> None:
    """While NGINX is slow, many changes of a source become one."""
    client, engine = api.client(), MemoryEngine()
    await client.put_route(live("a"))
    stop = Standstill()
    async with alive(make_agent(tmp_path, api.url, engine)):
        await engine.until(lambda it: it.loaded)
        engine.before_apply = stop
        writes = [asyncio.create_task(client.put_route(live("a", 9000)))]
        await stop.reached.wait()
        writes += [asyncio.create_task(client.put_route(live("a", 9001 + n))) for n in range(30)]
        await eventually(lambda: api.service.routes.count == 1)
        last = 0
        while last < 31:
            last = (await client.get_route("a")).revision - 2
            await asyncio.sleep(0.002)
        engine.applied.clear()
        stop.go.set()
        await asyncio.gather(*writes)
        assert len(engine.applied) <= 4
        assert engine.table["a"].revision == (await client.get_route("a")).revision


async def test_a_full_table_is_refused_by_the_api(api: Ceryx, tmp_path: Path) -> None:
    """507 before anything is written, from the smallest capacity that a live node publishes."""
    client, engine = api.client(), MemoryEngine(capacity=3)
    async with alive(make_agent(tmp_path, api.url, engine)):
        await engine.until(lambda it: it.loaded)
        await eventually(lambda: api.service.nodes.capacity() == 3)
        for number in range(3):
            await client.put_route(live(f"h{number}"))
        with pytest.raises(LairError) as caught:
            await client.put_route(live("h3"))
        assert caught.value.status == 507
        assert "3 routes" in caught.value.detail
        await client.put_route(live("h2", 9999))
        await client.delete_route("h1")
        await client.put_route(live("h3"))
        assert set(engine.routes()) == {"h0", "h2", "h3"}


async def test_a_removed_node_registers_anew(api: Ceryx, tmp_path: Path) -> None:
    """Its reports are refused, its file is void, and it comes back through a snapshot."""
    client, engine = api.client(), MemoryEngine()
    await client.put_route(live("a"))
    async with alive(make_agent(tmp_path, api.url, engine)):
        await engine.until(lambda it: it.loaded)
        with pytest.raises(LairError) as caught:
            await client.remove_node("n1")
        assert caught.value.status == 409
        before = api.service.nodes.get("n1").registered_revision
        api.service.nodes.get("n1").live = False
        api.service.nodes.get("n1").heard -= 100
        await api.service.nodes.remove("n1")
        await eventually(lambda: bool(api.service.nodes.all()))
        assert api.service.nodes.get("n1").registered_revision > before
        assert (await client.batch([RouteWrite(source="b", route=live("b"))])).served
        assert set(engine.routes()) == {"a", "b"}


async def test_names_are_looked_up(api: Ceryx, tmp_path: Path) -> None:
    """A name that resolves is served when its write is answered; one that does not has its problem told."""
    from sourcelair.ceryx.agent.resolve import NoAddress

    known = {"app.internal": ["10.1.1.1"]}

    def lookup(host: str) -> list[str]:
        if host not in known:
            raise NoAddress(host)
        return known[host]

    client, engine = api.client(), MemoryEngine()
    async with alive(make_agent(tmp_path, api.url, engine, lookup=lookup)):
        await engine.until(lambda it: it.loaded)
        await client.put_route(Route(source="a", target="http://app.internal:3000"))
        assert (engine.table["a"].state, engine.table["a"].address) == ("live", "10.1.1.1")
        await client.put_route(Route(source="b", target="https://gone.internal"))
        entry = engine.table["b"]
        assert (entry.state, entry.port, entry.server_name) == ("unresolved", 443, "gone.internal")
        assert "gone.internal" in entry.problem


async def test_a_look_up_that_goes_on_is_no_problem_yet(api: Ceryx, tmp_path: Path) -> None:
    """Its route is applied at once; without a problem its visitors are held until there is an answer."""
    may_answer = threading.Event()

    def lookup(host: str) -> list[str]:
        assert may_answer.wait(10)
        return ["10.1.1.1"]

    client, engine = api.client(), MemoryEngine()
    async with alive(make_agent(tmp_path, api.url, engine, lookup=lookup)):
        await engine.until(lambda it: it.loaded)
        writing = asyncio.create_task(client.put_route(Route(source="a", target="http://app.internal:3000")))
        await engine.until(lambda it: "a" in it.table)
        assert (engine.table["a"].state, engine.table["a"].problem) == ("unresolved", None)
        may_answer.set()
        await engine.until(lambda it: it.table["a"].state == "live")
        await writing


async def test_a_look_up_that_fails_leaves_a_good_target(api: Ceryx, tmp_path: Path) -> None:
    """While nobody can say where a name is, its last address is served; one that is gone for certain is not."""
    from sourcelair.ceryx.agent.resolve import NoAddress

    answers: list[str | Exception] = ["10.1.1.1"]
    asked = 0

    def lookup(host: str) -> list[str]:
        nonlocal asked
        asked += 1
        if isinstance(answers[0], Exception):
            raise answers[0]
        return [answers[0]]

    client, engine = api.client(), MemoryEngine()
    agent = make_agent(tmp_path, api.url, engine, lookup=lookup)
    agent._resolver._interval = 0.01
    async with alive(agent):
        await engine.until(lambda it: it.loaded)
        await client.put_route(Route(source="a", target="http://app.internal:3000"))
        assert engine.table["a"].address == "10.1.1.1"
        answers[0] = OSError(0, "nobody says")
        since = asked
        await eventually(lambda: asked >= since + 3)
        assert (engine.table["a"].state, engine.table["a"].address) == ("live", "10.1.1.1")
        assert agent._resolver.answers["app.internal"].address == "10.1.1.1"
        answers[0] = NoAddress("app.internal")
        await engine.until(lambda it: it.table["a"].state == "unresolved")
