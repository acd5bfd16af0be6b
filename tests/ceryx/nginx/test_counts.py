"""Where requests are counted: what belongs to an instance never gets into another one's numbers."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest
from tests.ceryx.nginx.conftest import ChangeLua, Serve, StartProxy
from tests.ceryx.nginx.world import Message, Proxy, Server, answer, app, until

from sourcelair.ceryx.nginx import render
from sourcelair.ceryx.table import EngineGone, TableEntry
from sourcelair.client.ceryx import InstanceCounts

pytestmark = pytest.mark.anyio

MONITOR = {"User-Agent": "Pingdom.com_bot"}


async def numbers(proxy: Proxy, instance: str) -> tuple[int, int, int]:
    counts = await proxy.count(instance)
    return counts.in_flight, counts.total, counts.robots


async def test_the_instance_after_a_forgotten_one_begins_at_zero(proxy: Proxy, serve: Serve) -> None:
    """It is counted where the other one was, by both workers."""
    server = await serve()
    for instance in ("i-1", "i-2", "i-3"):
        await proxy.live("a", server, instance)
        await asyncio.gather(*(proxy.request("a") for _ in range(20)))
        await proxy.request("a", **MONITOR)
        await proxy.drained(instance)
        assert await numbers(proxy, instance) == (0, 21, 1)
        await proxy.put("a")
        assert await proxy.control.forget([instance]) == [instance]
        assert await numbers(proxy, instance) == (0, 0, 0)


async def test_what_a_worker_remembers_of_a_forgotten_instance_is_void(start_proxy: StartProxy, serve: Serve) -> None:
    """Its very entry comes back, for another host, while somebody else is counted in its old place."""
    proxy = await start_proxy(nginx_workers=1)
    await proxy.open()
    server = await serve()
    places = {"address": server.host, "port": server.port, "instance": "i-1"}
    await proxy.control.apply([TableEntry("a", 5, "live", **places)])  # type: ignore[arg-type]
    await proxy.request("a")
    await proxy.drained("i-1")
    await proxy.control.apply([TableEntry("a", 6, "deleted")])
    await proxy.control.forget(["i-1"])
    await proxy.live("c", server, "i-2")
    await proxy.request("c")
    await proxy.control.apply([TableEntry("b", 5, "live", **places)])  # type: ignore[arg-type]
    await proxy.request("b")
    await proxy.drained("i-1")
    assert await numbers(proxy, "i-1") == (0, 1, 0)
    assert await numbers(proxy, "i-2") == (0, 1, 0)


async def test_workers_may_die_more_often_than_there_are_rows(
    start_proxy: StartProxy, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next one takes a dead one's row over. What that had sent stays counted, and nothing of it is open."""
    monkeypatch.setattr(render, "ROWS_PER_WORKER", 1)
    monkeypatch.setattr(render, "SPARE_ROWS", 2)

    async def slow(message: Message, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool | None:
        if message.path == "/slow":
            await reader.read(1)  # until the worker is gone
            return False
        writer.write(answer(200, "here"))
        return None

    proxy = await start_proxy(nginx_workers=1)
    await proxy.open()
    server = await serve(Server(slow))
    await proxy.live("a", server)
    for number in range(1, 9):
        visit = asyncio.create_task(proxy.request("a", path="/slow"))
        await until(lambda number=number: len(server.requests) == 2 * number - 1)  # type: ignore[misc]
        worker = proxy.workers()[0]
        os.kill(worker, signal.SIGKILL)
        assert isinstance((await asyncio.gather(visit, return_exceptions=True))[0], BaseException)
        await until(lambda worker=worker: proxy.workers() not in ([], [worker]))  # type: ignore[misc]
        assert (await proxy.request("a")).status == 200
        await proxy.drained("i-1")
        assert await numbers(proxy, "i-1") == (0, 2 * number, 0)


async def with_room_for(instances: int, start_proxy: StartProxy, monkeypatch: pytest.MonkeyPatch) -> Proxy:
    monkeypatch.setattr(render, "BYTES_PER_INSTANCE", (8 << 20) // instances)
    proxy = await start_proxy(nginx_workers=1, route_table_bytes=1 << 20)
    await proxy.open()
    return proxy


async def test_what_is_forgotten_leaves_its_room(
    start_proxy: StartProxy, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One after the other at the same host, more than there is room for: what a worker remembers of one holds none."""
    proxy = await with_room_for(3, start_proxy, monkeypatch)
    server = await serve()
    for number in range(9):
        instance = f"i-{number}"
        await proxy.live("a", server, instance)
        assert (await proxy.request("a")).status == 200
        await proxy.put("a")
        await proxy.drained(instance)
        assert await proxy.control.forget([instance]) == [instance]


async def test_a_reload_with_other_sizes_is_refused(proxy: Proxy, serve: Serve) -> None:
    """The workers that are there go on: others would count where these do not look."""
    await proxy.live("a", await serve())
    await proxy.request("a")
    configuration, before = proxy.directory / "nginx.conf", proxy.workers()
    configuration.write_text(configuration.read_text().replace(' sizes = "', ' sizes = "1'))
    assert proxy.engine.pid is not None
    os.kill(proxy.engine.pid, signal.SIGHUP)
    log = proxy.directory / "logs" / "error.log"
    await until(lambda: "other sizes" in log.read_text())
    assert (await proxy.request("a")).status == 200
    await proxy.drained("i-1")
    assert await numbers(proxy, "i-1") == (0, 2, 0)
    assert proxy.workers() == before
    log.write_text("")


async def test_what_can_not_be_counted_is_not_sent(
    start_proxy: StartProxy, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is room for two instances. One that is forgotten makes room for the next."""
    proxy = await with_room_for(2, start_proxy, monkeypatch)
    server = await serve()
    for name in ("a", "b", "c"):
        await proxy.live(name, server, f"i-{name}")
    assert [(await proxy.request(name)).status for name in ("a", "b", "c")] == [200, 200, 503]
    assert len(server.requests) == 2
    await proxy.put("a")
    await proxy.drained("i-a")
    assert await proxy.control.forget(["i-a"]) == ["i-a"]
    assert (await proxy.request("c")).status == 200
    assert await numbers(proxy, "i-c") == (0, 1, 0)


async def test_a_route_of_a_host_that_changed_is_looked_at_anew(proxy: Proxy, serve: Serve) -> None:
    """Whatever the host's last request was counted by: another instance, no target, a path of its own, HTTPS only."""
    servers = [await serve(app(name)) for name in ("one", "two")]
    await proxy.live("a", servers[0], "i-1")
    assert [(await proxy.request("a")).body for _ in range(4)] == [b"one"] * 4
    await proxy.live("a", servers[1], "i-2")
    assert [(await proxy.request("a")).body for _ in range(4)] == [b"two"] * 4
    await proxy.live("a/docs", servers[0], "i-1")
    assert {(await proxy.request("a", path="/docs/x")).body for _ in range(4)} == {b"one"}
    assert {(await proxy.request("a", path="/")).body for _ in range(4)} == {b"two"}
    await proxy.put("a/docs", "deleted")
    assert {(await proxy.request("a", path="/docs/x")).body for _ in range(4)} == {b"two"}
    await proxy.live("a", servers[1], "i-2", enforce_https=True)
    assert {(await proxy.request("a")).status for _ in range(4)} == {301}


@pytest.mark.parametrize("when", ["true", "value:byte() == 78"], ids=["each time", "at the withdrawal"])
async def test_who_writes_the_table_is_killed_before_he_says_so(
    start_proxy: StartProxy, serve: Serve, change_lua: ChangeLua, when: str
) -> None:
    """What was remembered is void all the same, and an agent that finds the table right writes nothing."""
    write = "    local ok = dictionary:safe_set(source, value)\n"
    change_lua("versions.lua", write, f"{write}    if {when} then return ok end\n")
    proxy = await start_proxy()
    await proxy.open()
    server = await serve()
    await proxy.live("a", server)
    await asyncio.gather(*(proxy.request("a") for _ in range(20)))
    await proxy.put("a")
    assert {answer.status for answer in await asyncio.gather(*(proxy.request("a") for _ in range(20)))} == {503}
    assert len(server.requests) == 20
    await proxy.live("a", server, "i-2")
    assert (await proxy.request("a")).status == 200
    await proxy.drained("i-2")
    assert await numbers(proxy, "i-1") == (0, 20, 0)


async def test_who_tells_of_a_path_is_killed_half_way(
    start_proxy: StartProxy, serve: Serve, change_lua: ChangeLua
) -> None:
    """The count of the host's paths is raised, the host's entry does not say so: the agent's next try mends that."""
    change_lua("below.lua", "    local told = matches.with(value, teller.flag, true)\n", KILLED_HALF_WAY)
    proxy = await start_proxy()
    await proxy.open()
    await proxy.live("a", await serve(app("one")), "i-1")
    with pytest.raises(EngineGone):
        await proxy.live("a/docs", await serve(app("killed")), "i-2")
    await proxy.live("a/docs", await serve(app("two")), "i-2")
    assert (await proxy.request("a", path="/docs")).body == b"two"
    await proxy.put("a/docs", "deleted")
    assert (await proxy.request("a", path="/docs")).body == b"one"


KILLED_HALF_WAY = """
    if ngx.shared.lair_state:add("was killed", true) then error("killed") end
    local told = matches.with(value, teller.flag, true)
"""


async def test_a_row_is_a_living_workers_as_long_as_it_lives(start_proxy: StartProxy, serve: Serve) -> None:
    """Two workers count at the same time, and nothing of either is lost."""
    proxy = await start_proxy(nginx_workers=2)
    await proxy.open()
    server = await serve()
    await proxy.live("a", server)

    async def visit(times: int) -> None:
        for _ in range(times):
            await proxy.request("a")

    async def look() -> list[InstanceCounts]:
        found = []
        for _ in range(50):
            found.append(await proxy.count("i-1"))
        return found

    _, seen = await asyncio.gather(asyncio.gather(*(visit(50) for _ in range(8))), look())
    await proxy.drained("i-1")
    assert await numbers(proxy, "i-1") == (0, 400, 0)
    assert all(0 <= counts.in_flight <= 8 for counts in seen)
    assert [counts.total for counts in seen] == sorted(counts.total for counts in seen)
