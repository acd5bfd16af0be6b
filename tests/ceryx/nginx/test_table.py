"""The table in NGINX's shared memory: how much fits, what becomes of what was deleted."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.ceryx.agents import alive, make_agent
from tests.ceryx.conftest import listening, running
from tests.ceryx.nginx.conftest import ChangeLua, Serve, StartProxy
from tests.ceryx.nginx.world import Message, Proxy, Server, answer, until

from sourcelair.ceryx.sources import MAX_SOURCE
from sourcelair.ceryx.table import TableEntry
from sourcelair.client.ceryx import Route

pytestmark = pytest.mark.anyio


def entries(hosts: list[str], revision: int, state: str = "live") -> list[TableEntry]:
    if state == "deleted":
        return [TableEntry(host, revision, "deleted") for host in hosts]
    return [TableEntry(host, revision, "live", "127.0.0.1", 1, f"i-{host[:40]}") for host in hosts]


@pytest.mark.parametrize("length", [20, 250, MAX_SOURCE])
async def test_as_many_routes_fit_as_the_table_says(start_proxy: StartProxy, length: int) -> None:
    """With short sources and with the longest: the number that is published is one that fits."""
    proxy = await start_proxy(route_table_bytes=1 << 20)
    await proxy.open()
    for revision in range(1, 7):
        state = await proxy.control.hello(1)
        names = [f"{state.routes + at:0{length}}" for at in range(state.capacity - state.routes)]
        await proxy.control.apply(entries(names, revision))
        assert (await proxy.control.hello(1)).routes == state.capacity
    assert state.routes > 1500, "and not much less than what fits"


async def test_counts_of_what_is_in_flight_are_not_forgotten(proxy: Proxy, serve: Serve) -> None:
    """NGINX looks itself, in the same step: between the agent's reading and its word a request may have come."""
    answering = asyncio.Event()

    async def slow(message: Message, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await answering.wait()
        writer.write(answer(200, "late"))

    server = await serve(Server(slow))
    await proxy.live("a", server)
    visit = asyncio.create_task(proxy.request("a"))
    await until(lambda: bool(server.requests))
    await proxy.put("a")
    assert await proxy.control.forget(["i-1", "i-2"]) == ["i-2"]
    assert ((await proxy.count("i-1")).in_flight, (await proxy.count("i-1")).total) == (1, 1)
    answering.set()
    assert (await visit).body == b"late"

    async def over() -> bool:
        return (await proxy.count("i-1")).in_flight == 0

    await until(over)
    assert await proxy.control.forget(["i-1"]) == ["i-1"]
    assert (await proxy.count("i-1")).total == 0


async def test_what_no_agent_knows_of_is_found(proxy: Proxy, tmp_path: Path) -> None:
    """Left by an agent that died between its file and NGINX. One is visited all the time: it is never the oldest."""
    await proxy.open()
    await proxy.control.apply(entries([f"h{number}" for number in range(3000)], 1))
    await proxy.control.apply([TableEntry("hot", 1, "redirect", location="http://elsewhere.example.com")])
    over = asyncio.Event()

    async def visit() -> None:
        while not over.is_set():
            await proxy.request("hot")

    async with running(tmp_path / "api") as ceryx, listening(ceryx) as url:
        await ceryx.client().put_route(Route(source="known", target="http://127.0.0.1:1"))
        visiting = asyncio.create_task(visit())
        async with alive(make_agent(tmp_path / "api", url, proxy.control)):

            async def is_gone() -> bool:
                return (await proxy.control.hello(1)).routes == 1

            await until(is_gone)
        over.set()
        await visiting
    assert (await proxy.control.read(["hot"]))[0].state == "deleted"


async def test_the_oldest_come_first(proxy: Proxy) -> None:
    """A look at all of them in parts: what was looked up is at the end of the line."""
    await proxy.open()
    await proxy.control.apply(entries([f"h{number}" for number in range(6)], 1))
    await proxy.control.read(["h0"])
    assert await proxy.control.oldest(2) == ["h1", "h2"]
    assert await proxy.control.oldest(100) == ["h3", "h4", "h5", "h0", "h1", "h2"]


@pytest.mark.parametrize("by", ["changes", "hello"])
async def test_old_tombstones_hold_no_room(start_proxy: StartProxy, change_lua: ChangeLua, by: str) -> None:
    """As many as were deleted are cleared away with the next changes, and by the agent's looks where none come."""
    change_lua("tombstones.lua", "KEEP = 600 ", "KEEP = 0 ")
    if by == "changes":
        change_lua("control.lua", "BURIED_AT_ONCE = 500 ", "BURIED_AT_ONCE = 0 ")
    else:
        change_lua("tables.lua", "BURIED_PER_CHANGE = 2 ", "BURIED_PER_CHANGE = 0 ")
    proxy = await start_proxy()
    await proxy.open()
    names = [f"h{number}" for number in range(1500)]
    await proxy.control.apply(entries(names, 1))
    await proxy.control.apply(entries(names, 2, "deleted"))
    for _ in range(3):
        assert (await proxy.control.hello(1)).routes == 0
    assert [entry for entry in await proxy.control.read(names) if entry is not None] == []


async def test_a_redirect_keeps_every_character_of_its_target(proxy: Proxy) -> None:
    """A plus sign is one, and no space."""
    location = "https://new.example/a+b%20c/~d;e=1"
    await proxy.put("moved.localhost", "redirect", location=location)
    assert (await proxy.request("moved.localhost", path="/x?y=1+2")).headers["location"] == f"{location}/x?y=1+2"
