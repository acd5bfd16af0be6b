"""Wakers that are named: looked up beside everything else, again until they are there, and again while in use."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.ceryx.agents import alive, asleep, eventually, live, make_agent
from tests.ceryx.conftest import Ceryx
from tests.ceryx.engine import MemoryEngine

from sourcelair.ceryx.agent import resolve
from sourcelair.client.ceryx import Route, RouteWrite

pytestmark = pytest.mark.anyio

WAKER = "http://waker.internal:7070/waker"


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolve, "FIRST_RETRY", 0.01)


class Names:
    """Names as the test says they are; `hanging` ones are answered once they are let go."""

    def __init__(self, **known: str) -> None:
        self.known = {name.replace("_", "."): address for name, address in known.items()}
        self.asked: list[str] = []
        self.hanging: set[str] = set()
        self.go = threading.Event()

    def __call__(self, host: str) -> list[str]:
        self.asked.append(host)
        if host in self.hanging:
            self.go.wait()
        if host not in self.known:
            raise OSError(0, "nobody says")
        return [self.known[host]]


@pytest.fixture
def names() -> Iterator[Names]:
    found = Names()
    yield found
    found.go.set()


def named(source: str, waker: str = WAKER) -> Route:
    return Route(source=source, target=None, waker=waker)


async def test_one_that_fails_first_is_found_without_any_other_route(api: Ceryx, tmp_path: Path, names: Names) -> None:
    """NGINX is told of it as soon as its name is known."""
    engine = MemoryEngine()
    await api.client().put_route(named("a"))
    async with alive(make_agent(tmp_path, api.url, engine, lookup=names)):
        await engine.until(lambda it: it.loaded)
        await eventually(lambda: len(names.asked) >= 3)
        assert engine.wakers == {}
        engine.applied.clear()
        names.known["waker.internal"] = "10.1.1.1"
        await engine.until(lambda it: it.wakers == {WAKER: ("10.1.1.1", 7070)})
        assert engine.applied == []


async def test_names_that_hang_hold_nothing_up(api: Ceryx, tmp_path: Path, names: Names) -> None:
    """Routes are applied, and writes answered as served, whatever becomes of their wakers' names."""
    client, engine = api.client(), MemoryEngine()
    names.hanging = {f"waker{number}.internal" for number in range(20)}
    names.known["app.internal"] = "10.1.1.2"
    async with alive(make_agent(tmp_path, api.url, engine, lookup=names)):
        await engine.until(lambda it: it.loaded)
        for number in range(20):
            route = named(f"h{number}", f"http://waker{number}.internal")
            assert (await client.batch([RouteWrite(source=route.source, route=route)])).served
        await eventually(lambda: len(names.asked) >= 8)
        assert (await client.batch([RouteWrite(source="b", route=live("b"))])).served
        # Names in targets have their own turn.
        await client.put_route(Route(source="c", target="http://app.internal:3000"))
        assert engine.table["c"].address == "10.1.1.2"
        revision = await client.put_route(asleep("b"))
        assert (await client.withdrawal("none", revision, until="drained", wait=5)).drained


async def test_one_that_moves_is_found_again(api: Ceryx, tmp_path: Path, names: Names) -> None:
    """It is looked up every `resolve_interval`; while nobody can say where it is, its last address stays."""
    engine = MemoryEngine()
    names.known["waker.internal"] = "10.1.1.1"
    await api.client().put_route(named("a"))
    agent = make_agent(tmp_path, api.url, engine, lookup=names)
    agent._waker_names._interval = 0.01
    async with alive(agent):
        await engine.until(lambda it: it.wakers == {WAKER: ("10.1.1.1", 7070)})
        del names.known["waker.internal"]
        asked = len(names.asked)
        await eventually(lambda: len(names.asked) >= asked + 3)
        assert engine.wakers == {WAKER: ("10.1.1.1", 7070)}
        names.known["waker.internal"] = "10.1.1.9"
        await engine.until(lambda it: it.wakers == {WAKER: ("10.1.1.9", 7070)})


async def test_a_new_nginx_is_told_all_again(api: Ceryx, tmp_path: Path, names: Names) -> None:
    """It forgot everything; and an agent that starts anew knows nothing of what the same NGINX has."""
    engine = MemoryEngine()
    names.known["waker.internal"] = "10.1.1.1"
    await api.client().put_route(named("a"))
    async with alive(make_agent(tmp_path, api.url, engine, lookup=names)):
        await engine.until(lambda it: it.loaded and it.wakers == {WAKER: ("10.1.1.1", 7070)})
        engine.restart()
        await engine.until(lambda it: it.loaded)
        assert engine.wakers == {WAKER: ("10.1.1.1", 7070)}
    names.known["waker.internal"] = "10.1.1.2"
    async with alive(make_agent(tmp_path, api.url, engine, lookup=names)):
        await engine.until(lambda it: it.wakers == {WAKER: ("10.1.1.2", 7070)})


async def test_only_wakers_in_use_are_looked_up(api: Ceryx, tmp_path: Path, names: Names) -> None:
    """And none whose URL has an address, or can't be called at all."""
    client, engine = api.client(), MemoryEngine()
    agent = make_agent(tmp_path, api.url, engine, lookup=names)
    agent._waker_names._interval = 0.01
    async with alive(agent):
        await engine.until(lambda it: it.loaded)
        for waker in (
            "http://127.0.0.1:1",
            "http://[::1]:1",
            "http://localhost:1",
            "http://a.localhost",
            "https://x.y",
        ):
            await client.put_route(named("a", waker))
        assert names.asked == []
        await client.put_route(named("a"))
        await eventually(lambda: len(names.asked) >= 2)
        await client.put_route(named("a", "http://other.internal"))
        await eventually(lambda: names.asked.count("other.internal") >= 5)
        asked = names.asked.count("waker.internal")
        await eventually(lambda: names.asked.count("other.internal") >= 15)
        assert names.asked.count("waker.internal") <= asked + 1


async def test_a_failure_is_tried_again_with_growing_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Soon, then less and less often, and never less than every interval; a success ends that."""
    monkeypatch.setattr(resolve, "FIRST_RETRY", 1.0)
    resolver, loop = resolve.Resolver(30.0), asyncio.get_running_loop()
    pauses = []
    for _ in range(7):
        resolver._retry("x")
        pauses.append(round(resolver._retries["x"].when() - loop.time()))
    assert pauses == [1, 2, 4, 8, 16, 30, 30]
    resolver._settle("x")
    assert not resolver._retries
    resolver._retry("x")
    assert round(resolver._retries["x"].when() - loop.time()) == 1
    resolver._settle("x")
