"""The system in parts that share etcd: two of each, killed, paused and taken over, while visitors come and go."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.etcd import EtcdCluster, running_etcd
from tests.system.lair import Lair
from tests.system.site import Site, site_of
from tests.system.visitors import traffic

pytestmark = [pytest.mark.anyio, pytest.mark.system, pytest.mark.timeout(240)]

TAKEN_OVER = 30.0
"""Seconds in which a successor must act: a lease, and what a busy machine adds."""


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[EtcdCluster]:
    (tmp_path / "etcd").mkdir()
    with running_etcd(tmp_path / "etcd", 3) as cluster:
        yield cluster


@dataclass
class Parts:
    """Two of each: proxy nodes with data directories of their own, APIs that share one."""

    proxies: list[Lair]
    ceryx: list[Lair]
    api: list[Lair]
    hemera: list[Lair]

    def all(self) -> list[Lair]:
        return [*self.ceryx, *self.api, *self.hemera, *self.proxies]


def make(directory: Path, store: str) -> Parts:
    env = {"LAIR_STORE": store, "LAIR_IDLE_TIMEOUT": "600", "LAIR_TEST_LEASE": "3"}
    shared = directory / "shared"

    def part(name: str, *command: str, own: bool = False) -> Lair:
        return Lair(
            directory / name,
            env | {"LAIR_NODE": name, "LAIR_DATA_DIR": str(directory / name / "data" if own else shared)},
            command=command,
            data_dir=None if own else shared,
        )

    return Parts(
        proxies=[part(f"proxy-{n}", "ceryx", "--role", "proxy", own=True) for n in (1, 2)],
        ceryx=[part(f"ceryx-{n}", "ceryx", "--role", "api") for n in (1, 2)],
        api=[part(f"api-{n}", "api") for n in (1, 2)],
        hemera=[part(f"hemera-{n}", "hemera") for n in (1, 2)],
    )


def acts(lair: Lair) -> bool:
    """Whether this process has begun to act for its service."""
    return "Starting the services" in lair.output


async def succeeded(lair: Lair) -> None:
    """Wait until a process acts that stood by."""
    async with asyncio.timeout(TAKEN_OVER):
        while not acts(lair):
            await asyncio.sleep(0.02)


@pytest.fixture
async def parts(etcd: EtcdCluster, tmp_path: Path) -> AsyncIterator[Parts]:
    made = make(tmp_path, etcd.url("/lair"))
    try:
        for lair in made.all():
            lair.start(wait=False)
        for lair in made.all():
            await asyncio.to_thread(lair.wait_ready)
        yield made
    finally:
        for lair in reversed(made.all()):
            with contextlib.suppress(ProcessLookupError):
                if lair.up is not None:
                    lair.up.send_signal(signal.SIGCONT)
            lair.close()


@contextlib.asynccontextmanager
async def sites_of(parts: Parts, api: Lair) -> AsyncIterator[list[Site]]:
    """One for each proxy: its visitors, and the APIs as one process answers them."""
    async with contextlib.AsyncExitStack() as stack:
        sites = [await stack.enter_async_context(site_of(api)) for _ in parts.proxies]
        for site, proxy in zip(sites, parts.proxies, strict=True):
            site.address = ("127.0.0.1", proxy.port)
        yield sites


async def test_two_of_each(parts: Parts, tmp_path: Path) -> None:
    """A server is created at any API, woken through either node, and one visit on one node keeps it awake on both."""
    async with sites_of(parts, parts.api[0]) as (first, second):
        await _both(parts, first, second, tmp_path)


async def _both(parts: Parts, first: Site, second: Site, directory: Path) -> None:
    app = await first.identity("parts", "both", directory)
    assert (await app.fetch("/")).status == 200
    assert (await second.fetch(app.host)).status == 200
    assert len(app.starts()) == 1
    nodes = {node["node"]: node for node in parts.hemera[1].call("GET", "/api/nodes/").json()}
    assert set(nodes) == {"proxy-1", "proxy-2"}
    assert all(node["state"] == "live" and node["lag"] == 0 for node in nodes.values())
    for lair in (*parts.ceryx, *parts.api, *parts.hemera):
        assert lair.call("GET", "/api/servers/parts/both/").json()["state"] == "awake"
        assert [route["source"] for route in lair.call("GET", "/api/routes/").json()] == [app.host]
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", parts.proxies[0].api_port), 1)
    await app.stop()
    assert (await second.fetch(app.host)).status == 200
    assert len(app.starts()) == 2


async def test_who_visits_one_node_keeps_a_server_awake_on_all(parts: Parts, tmp_path: Path) -> None:
    """Its activity is that of all nodes together; and it sleeps once nobody visits any of them."""
    async with sites_of(parts, parts.api[0]) as (first, second):
        app = await first.identity("parts", "busy", tmp_path, idle_timeout=1.0)
        assert (await app.fetch("/")).status == 200
        async with traffic(second.address, app.host, gap=0.3) as seen:
            await asyncio.sleep(4.0)
            assert (await app.server()).state == "awake"
        app.check_books(seen)
        assert len(app.starts()) == 1
        await app.until("asleep")


async def test_a_silent_node_delays_a_port_and_no_visitor(parts: Parts, tmp_path: Path) -> None:
    """Its agent is gone while its NGINX may still send requests to the old port: nobody else gets that one."""
    async with sites_of(parts, parts.api[0]) as (first, second):
        app = await first.identity("parts", "silent", tmp_path, drain_timeout=2.0)
        assert (await app.fetch("/")).status == (await second.fetch(app.host)).status == 200
        instance = (await app.server()).instance
        assert instance is not None
        parts.proxies[1].kill9()
        await app.stop()
        assert (await app.fetch("/")).status == 200
        held = asyncio.create_task(second.fetch(app.host, method="POST", body=b"x", headers={"X-Request": "held"}))
        others = [await first.identity("others", f"app-{number}", tmp_path) for number in range(3)]
        for other in others:
            assert (await other.fetch("/")).status == 200
        taken = [server.instance.port for server in await first.servers.list() if server.instance is not None]
        assert len(taken) == 4 and instance.port not in taken
        await asyncio.to_thread(parts.proxies[1].start)
        assert (await held).status == 200
        assert app.requests()["held"] == 1
        assert (await second.fetch(others[0].host)).status == 200


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "paused"])
async def test_each_is_followed_by_another(parts: Parts, tmp_path: Path, how: signal.Signals) -> None:
    """Visitors of what is awake do not notice, what sleeps is woken, once; one that was paused ends by itself."""
    for kind in ("hemera", "api", "ceryx"):
        pair: list[Lair] = getattr(parts, kind)
        active, standby = sorted(pair, key=lambda lair: not acts(lair))
        assert acts(active) and not acts(standby)
        # One that is asked for all of it, and lives on.
        other = next(lair for lair in parts.all() if lair not in parts.proxies and lair.up and lair.up.poll() is None)
        other = standby if other is active else other
        async with sites_of(parts, other) as (first, second):
            await _follow(active, standby, how, first, second, tmp_path / kind)


async def _follow(active: Lair, standby: Lair, how: signal.Signals, first: Site, second: Site, directory: Path) -> None:
    directory.mkdir()
    awake = await first.identity("follow", f"{directory.name}-awake", directory)
    asleep = await first.identity("follow", f"{directory.name}-asleep", directory)
    assert (await awake.fetch("/")).status == 200
    assert active.up is not None
    async with traffic(first.address, awake.host) as seen, traffic(second.address, awake.host) as seen_too:
        active.up.send_signal(how)
        held = [
            asyncio.create_task(site.fetch(asleep.host, f"/{number}", method="POST", body=b"x"))
            for number, site in enumerate([first, second] * 3)
        ]
        await succeeded(standby)
        assert {answer.status for answer in await asyncio.gather(*held)} == {200}
        if how is signal.SIGSTOP:
            active.up.send_signal(signal.SIGCONT)
            assert await asyncio.to_thread(active.up.wait, 30) not in {0, None}
            assert "Traceback" not in active.output, active.output
        assert (await second.fetch(asleep.host)).status == 200
    assert not seen.failures and not seen_too.failures, (seen.failures[:3], seen_too.failures[:3])
    assert len(asleep.starts()) == 1 and asleep.twice() == []
    await asleep.stop()
    assert (await second.fetch(asleep.host)).status == 200
    assert len(asleep.starts()) == 2 and asleep.twice() == []
