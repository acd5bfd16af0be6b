"""What a route says of itself beyond its target, in a real NGINX: how long to wait, and what is quiet."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from tests.ceryx.conftest import Ceryx, make_settings
from tests.ceryx.nginx.conftest import Serve, StartProxy
from tests.ceryx.nginx.world import BROWSER, Proxy, Waker, answer, until

from sourcelair.ceryx.agent import Agent
from sourcelair.ceryx.agent.compiled import compile_settings
from sourcelair.ceryx.table import TableEntry, TableFull
from sourcelair.client.ceryx import CeryxClient, Route, RouteSettings
from sourcelair.client.policy import QuietRule

pytestmark = pytest.mark.anyio
HOST = "blog--demo.localhost"
FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:130.0) Gecko/20100101 Firefox/130.0"


def compiled(**values: Any) -> str:
    text = compile_settings(RouteSettings(**values), flows=True)
    assert text is not None
    return text


async def test_each_route_has_its_own_times(start_proxy: StartProxy, waker: Waker) -> None:
    """Patience and wake_timeout of the route count, those of the node for all others."""
    proxy = await start_proxy(patience=60, wake_timeout=120)
    await proxy.open(waker)
    await proxy.put("slow.localhost", waker=waker.url)
    await proxy.put(HOST, waker=waker.url, settings=compiled(patience=0.05, wake_timeout=0.1))
    others = [
        asyncio.create_task(proxy.request("slow.localhost")),
        asyncio.create_task(proxy.request("slow.localhost", **BROWSER)),
    ]
    page, problem = await asyncio.gather(proxy.request(HOST, **BROWSER), proxy.request(HOST))
    assert (page.status, page.body[:4]) == (503, b"PAGE")
    assert (problem.status, problem.state) == (504, "starting")
    assert not any(task.done() for task in others)
    await proxy.put(HOST, waker=waker.url, settings=compiled(patience=0, wake_timeout=60))
    assert (await proxy.request(HOST, **BROWSER)).body[:4] == b"PAGE", "another value was applied like any change"
    for task in others:
        task.cancel()


RULES: list[tuple[dict[str, Any], dict[str, Any], bool]] = [
    ({"path": "/health"}, {"path": "/health"}, True),
    ({"path": "/health"}, {"path": "/health?x=1"}, True),
    ({"path": "/health"}, {"path": "/healthy"}, False),
    ({"path": "/api/*"}, {"path": "/api/a/b"}, True),
    ({"path": "/api/*"}, {"path": "/x/../api/a"}, True),
    ({"path": "/api/*"}, {"path": "/ap"}, False),
    ({"path": "/a%20b"}, {"path": "/a%20b"}, True),
    ({"path": "/a,b|c"}, {"path": "/a,b%7Cc"}, True),
    ({"method": "HEAD"}, {"method": "HEAD"}, True),
    ({"method": "HEAD"}, {"method": "GET"}, False),
    ({"agent": "FireFox"}, {"User_Agent": FIREFOX}, True),
    ({"agent": "firefox/1.0"}, {"User_Agent": FIREFOX}, False),
    ({"agent": "firefox"}, {}, False),
    ({"header": "X-Probe"}, {"X_Probe": "1"}, True),
    ({"header": "X-Probe"}, {}, False),
    ({"header": "X-Probe", "value": "b, c"}, {"X_Probe": "a b, c"}, True),
    ({"header": "X-Probe", "value": "B"}, {"X_Probe": "a b"}, False),
    ({"address": "10.0.0.0/8"}, {"X_Real_IP": "10.200.3.4"}, True),
    ({"address": "10.0.0.0/8"}, {"X_Real_IP": "11.0.0.1"}, False),
    ({"address": "192.168.4.0/22"}, {"X_Real_IP": "192.168.7.255"}, True),
    ({"address": "192.168.4.0/22"}, {"X_Real_IP": "192.168.8.0"}, False),
    ({"address": "192.168.4.7"}, {"X_Real_IP": "192.168.4.7"}, True),
    ({"address": "192.168.4.7"}, {"X_Real_IP": "192.168.4.70"}, False),
    ({"address": "2001:db8::/33"}, {"X_Real_IP": "2001:db8:7fff::1"}, True),
    ({"address": "2001:db8::/33"}, {"X_Real_IP": "2001:db8:8000::1"}, False),
    ({"address": "::1"}, {"X_Real_IP": "0:0:0:0:0:0:0:1"}, True),
    ({"address": "10.0.0.0/8"}, {"X_Real_IP": "::ffff:10.0.0.1"}, True),
    ({"address": "::ffff:10.0.0.0/104"}, {"X_Real_IP": "10.9.9.9"}, True),
    ({"address": "0.0.0.0/0"}, {"X_Real_IP": "2001:db8::1"}, False),
    ({"address": "127.0.0.1"}, {}, True),
    ({"address": "127.0.0.1"}, {"X_Real_IP": "nonsense"}, True),
    ({"address": "203.0.113.0/24"}, {"X_Forwarded_For": "1.1.1.1, 203.0.113.9, 127.0.0.1"}, True),
    ({"address": "1.1.1.1"}, {"X_Forwarded_For": "1.1.1.1, 203.0.113.9"}, False),
    ({"address": "1.1.1.1"}, {"X_Real_IP": "1.1.1.1", "X_Forwarded_For": "203.0.113.9"}, False),
    ({"address": "203.0.113.9"}, {"X_Real_IP": "203.0.113.9", "X_Forwarded_For": "unknown"}, True),
    ({"address": "203.0.113.9"}, {"X_Forwarded_For": "[203.0.113.9]:4000"}, True),
    ({}, {}, True),
    ({"path": "/a", "method": "POST"}, {"path": "/a"}, False),
    ({"path": "/robots.txt", "wakes": True}, {"path": "/robots.txt"}, False),
    ({"agent": "bot", "wakes": True}, {"User_Agent": "Googlebot/2.1"}, False),
    ({"path": "/other"}, {"User_Agent": "Googlebot/2.1"}, True),
]


async def test_what_is_quiet_neither_wakes_nor_counts_as_a_visit(
    start_proxy: StartProxy, waker: Waker, serve: Serve
) -> None:
    """Every matcher: asleep it is told so and nobody is asked; awake it is answered, and counts as a robot."""
    proxy = await start_proxy(wake_timeout=0.02, trusted_proxies=["127.0.0.0/8"])
    await proxy.open(waker)
    server = await serve()
    for number, (rule, request, is_quiet) in enumerate(RULES):
        host, instance = f"h{number}.localhost", f"i-{number}"
        text = compiled(quiet=[QuietRule(**rule)])
        await proxy.put(host, waker=waker.url, settings=text)
        found = await proxy.request(host, **request)
        expected = (503, "asleep") if is_quiet else (504, "starting")
        assert (found.status, found.state) == expected, (rule, request)
        assert found.headers["retry-after"] == "5"
        asked = [wake["source"] for wake in waker.wakes]
        assert (host in asked) is not is_quiet, (rule, request)
        await proxy.live(host, server, instance, settings=text)
        assert (await proxy.request(host, **request)).status == 200
        counts = await proxy.count(instance)
        assert (counts.total, counts.robots) == (1, int(is_quiet)), (rule, request)
    assert proxy.errors() == []


async def test_the_first_rule_that_matches_decides(proxy: Proxy, waker: Waker) -> None:
    """An exception before the rule; what no rule says is left to the robots that every node knows."""
    rules = [QuietRule(path="/hooks/wake", wakes=True), QuietRule(path="/hooks/*")]
    await proxy.put(HOST, waker=waker.url, settings=compiled(quiet=rules, wake_timeout=0.05))
    assert (await proxy.request(HOST, path="/hooks/other")).state == "asleep"
    assert (await proxy.request(HOST, path="/page", User_Agent="UptimeRobot/2.0")).state == "asleep"
    assert waker.wakes == []
    assert (await proxy.request(HOST, path="/hooks/wake", User_Agent="UptimeRobot/2.0")).state == "starting"
    assert len(waker.wakes) == 1


async def test_hosts_of_one_revision_keep_their_own_settings(proxy: Proxy, waker: Waker) -> None:
    """Entries without a target may have one value; what they say of themselves is not mixed up, nor the wildcard's."""
    entries = [
        TableEntry("quiet.localhost", 50, "null", waker=waker.url, settings=compiled(quiet=[QuietRule()])),
        TableEntry("short.localhost", 50, "null", waker=waker.url, settings=compiled(wake_timeout=0.05)),
        TableEntry("$wildcard", 50, "null", waker=waker.url, settings=compiled(quiet=[QuietRule(path="/w")])),
    ]
    await proxy.control.apply(entries)
    for _ in range(2):
        assert (await proxy.request("quiet.localhost")).state == "asleep"
        assert (await proxy.request("short.localhost")).state == "starting"
        assert (await proxy.request("any.localhost", path="/w")).state == "asleep"
    assert await proxy.control.read([entry.source for entry in entries]) == entries


async def test_without_trusted_proxies_the_peer_is_the_visitor(proxy: Proxy, waker: Waker) -> None:
    """What a visitor says of its address counts for nothing."""
    await proxy.put(
        HOST, waker=waker.url, settings=compiled(quiet=[QuietRule(address="10.0.0.0/8")], wake_timeout=0.05)
    )
    found = await proxy.request(HOST, X_Real_IP="10.0.0.1", X_Forwarded_For="10.0.0.1")
    assert found.state == "starting"
    assert [wake["address"] for wake in waker.wakes] == ["127.0.0.1"]


async def test_the_waker_is_told_the_visitors_address(start_proxy: StartProxy, waker: Waker) -> None:
    """Behind a trusted proxy it is what that one says; nonsense is never passed on. Its own side learns it too."""
    proxy = await start_proxy(wake_timeout=0.05, trusted_proxies=["127.0.0.0/8"])
    await proxy.open(waker)
    said = {"a": "203.0.113.9", "b": "2001:db8::1", "c": "x" * 300, "d": "127.0.0.9"}
    for host, address in said.items():
        await proxy.put(f"{host}.localhost", waker=waker.url)
        await proxy.request(f"{host}.localhost", X_Real_IP=address)
    told = {wake["source"][0]: wake["address"] for wake in waker.wakes}
    assert told == said | {"c": "127.0.0.1"}
    await proxy.request("a.localhost", path="/.hemera/x", X_Real_IP="203.0.113.9")
    assert waker.requests[-1].headers["x-real-ip"] == "203.0.113.9"


async def test_settings_for_which_there_is_no_room_are_refused(start_proxy: StartProxy) -> None:
    """Nothing of what stood is lost; and what takes a target off is never refused."""
    proxy = await start_proxy(route_table_bytes=1 << 20)
    await proxy.open()
    large = compiled(quiet=[QuietRule(path=f"/{n}{'x' * 450}") for n in range(17)])
    entries = [TableEntry(f"h{n}", 1, "live", "127.0.0.1", 1, f"i-{n}", settings=large) for n in range(2000)]
    with pytest.raises(TableFull) as refused:
        await proxy.control.apply(entries)
    at = int(refused.value.source[1:])
    assert 20 < at < 2000
    assert await proxy.control.read([f"h{n}" for n in range(at)]) == entries[:at]
    assert await proxy.control.read([f"h{at}"]) == [None]
    small = TableEntry("h0", 2, "live", "127.0.0.1", 1, "i-0", settings=compiled(patience=1))
    await proxy.control.apply([small])
    longer = TableEntry("h1", 2, "live", "127.0.0.1", 1, "i-1", settings=large + "," * 200_000)
    with pytest.raises(TableFull):
        await proxy.control.apply([longer])
    assert await proxy.control.read(["h0", "h1"]) == [small, entries[1]]
    await proxy.control.apply([TableEntry("h1", 3, "null", settings=longer.settings)])
    assert await proxy.control.read(["h1"]) == [TableEntry("h1", 3, "null")]


async def test_from_the_api_to_the_visitor(api: Ceryx, start_proxy: StartProxy, waker: Waker, tmp_path: Path) -> None:
    """A write that changes nothing but settings is served like any other; so is their end."""
    proxy = await start_proxy(patience=60, wake_timeout=60)
    client = CeryxClient(api.url, "service")
    settings = make_settings(tmp_path, node="n1")
    agent = Agent(settings, client, proxy.control, directory=tmp_path / "agent", waker=None, waker_token=None)
    task = asyncio.create_task(agent.run())

    async def starting(_: dict[str, Any]) -> bytes:
        return answer(202, "{}")

    waker.on_wake = starting
    try:
        await client.put_route(Route(source=HOST, waker=waker.url))
        await until(lambda: agent.ready)
        quiet = RouteSettings(quiet=[QuietRule(path="/quiet")], wake_timeout=0.05)
        await client.put_route(Route(source=HOST, waker=waker.url, settings=quiet))
        assert (await client.get_route(HOST)).settings == quiet
        assert (await proxy.request(HOST, path="/quiet")).state == "asleep"
        assert (await proxy.request(HOST)).status == 504
        await client.put_route(Route(source=HOST, waker=waker.url))
        held = asyncio.create_task(proxy.request(HOST, path="/quiet"))
        await until(lambda: len([wake for wake in waker.wakes if wake["path"] == "/quiet"]) == 1 or held.done())
        assert not held.done()
        held.cancel()
    finally:
        task.cancel()
        await asyncio.wait([task])
        await client.close()
