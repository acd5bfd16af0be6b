"""The whole system with its stores in etcd: crashes of both sides, and of who was the control plane before."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from tests.etcd import EtcdCluster, running_etcd
from tests.system.lair import Lair, running_lair
from tests.system.site import Site, site_of
from tests.system.visitors import traffic

from sourcelair.client.ceryx import Route, RouteWrite
from sourcelair.errors import LairError, PreconditionFailed

pytestmark = [pytest.mark.anyio, pytest.mark.system]


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[EtcdCluster]:
    (tmp_path / "etcd").mkdir()
    with running_etcd(tmp_path / "etcd", 3) as cluster:
        yield cluster


@pytest.fixture
async def own(etcd: EtcdCluster, tmp_path: Path) -> AsyncIterator[Site]:
    """An installation whose stores are in etcd."""
    with running_lair(tmp_path / "own", {"LAIR_STORE": etcd.url("/lair")}) as lair:
        async with site_of(lair) as site:
            yield site


async def test_a_killed_control_plane_takes_over_from_itself(own: Site, tmp_path: Path) -> None:
    """Visitors do not notice, the instance is adopted, and the next sleep and wake go well."""
    app = await own.identity("etcd", "killed", tmp_path)
    await app.fetch("/")
    before = (await app.server()).instance
    async with traffic(own.address, app.host) as seen:
        await asyncio.sleep(0.3)
        own.lair.kill9()
        await asyncio.to_thread(own.lair.start)
        await asyncio.sleep(0.3)
    app.check_books(seen)
    after = (await app.until("awake")).instance
    assert before is not None and after is not None and before.id == after.id
    await app.stop()
    assert (await app.fetch("/")).status == 200
    assert len(app.starts()) == 2


async def test_visitors_of_awake_servers_do_not_notice_that_etcd_is_gone(
    own: Site, etcd: EtcdCluster, tmp_path: Path
) -> None:
    """All of it is killed: no request fails. It comes back: everything goes on, as it was."""
    app = await own.identity("etcd", "gone", tmp_path)
    await app.fetch("/")
    async with traffic(own.address, app.host) as seen:
        for member in etcd.members:
            member.kill()
        await asyncio.sleep(2)
        for member in etcd.members:
            member.start()
        await asyncio.to_thread(etcd.wait)
        await asyncio.sleep(0.5)
    app.check_books(seen)
    async with asyncio.timeout(30):
        while True:
            try:
                await app.stop()
                break
            except LairError:
                await asyncio.sleep(0.1)
    assert (await app.fetch("/")).status == 200


async def test_a_cold_start_without_etcd_serves_what_was_known(own: Site, etcd: EtcdCluster, tmp_path: Path) -> None:
    """NGINX has gone, etcd too: what was awake is visited all the same; and all goes on once etcd is back."""
    app = await own.identity("etcd", "cold", tmp_path)
    assert (await app.fetch("/")).status == 200
    own.lair.terminate()
    for process in own.lair.nginx():
        process.kill()
    for member in etcd.members:
        member.kill()
    own.lair.start(wait=False)
    async with asyncio.timeout(30):
        while True:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                if (await app.fetch("/")).status == 200:
                    break
            await asyncio.sleep(0.05)
    assert not own.lair.is_ready(), "nobody can be woken by now"
    for member in etcd.members:
        member.start()
    await asyncio.to_thread(etcd.wait)
    await asyncio.to_thread(own.lair.wait_ready)
    await app.stop()
    assert (await app.fetch("/")).status == 200
    assert len(app.starts()) == 2


@pytest.fixture
async def brief(etcd: EtcdCluster, tmp_path: Path) -> AsyncIterator[Site]:
    """One with a short lease: each new leader of etcd begins all of them anew, and a slow machine has many."""
    with running_lair(tmp_path / "brief", {"LAIR_STORE": etcd.url("/lair"), "LAIR_TEST_LEASE": "3"}) as lair:
        async with site_of(lair) as site:
            yield site


async def test_a_second_control_plane_stands_by_until_the_first_is_gone(
    brief: Site, etcd: EtcdCluster, tmp_path: Path
) -> None:
    """It answers meanwhile what the first one would. The one that was paused writes nothing once it was followed."""
    route = Route(source="one.example.com", target="http://127.0.0.1:1")
    await brief.ceryx.batch([RouteWrite(source=route.source, route=route)])
    second = Lair(tmp_path / "second", {"LAIR_STORE": etcd.url("/lair"), "LAIR_NODE": "second", "LAIR_TEST_LEASE": "3"})
    try:
        second.start("--take-over", wait=False)
        await asyncio.to_thread(second.wait_ready)
        assert "Standing by" in second.output
        assert second.call("GET", "/api/routes/one.example.com/").json()["target"] == route.target
        assert {node["node"] for node in second.call("GET", "/api/nodes/").json()} == {socket.gethostname(), "second"}
        assert brief.lair.up is not None
        brief.lair.up.send_signal(signal.SIGSTOP)
        async with asyncio.timeout(60):
            while "Starting the services" not in second.output:
                await asyncio.sleep(0.05)
        await asyncio.to_thread(second.wait_ready)
        assert second.call("GET", "/api/routes/one.example.com/").json()["target"] == route.target
        brief.lair.up.send_signal(signal.SIGCONT)
        assert await asyncio.to_thread(brief.lair.up.wait, 30) != 0
        assert "taken over" in brief.lair.output
    finally:
        if brief.lair.up is not None and brief.lair.up.poll() is None:
            brief.lair.up.send_signal(signal.SIGCONT)
        second.close()


async def test_servers_are_run_from_where_they_are_at_home(own: Site, etcd: EtcdCluster, tmp_path: Path) -> None:
    """Another machine can't see their processes, and does not start: unless it is told that the first is gone."""
    second = Lair(tmp_path / "second", {"LAIR_STORE": etcd.url("/lair"), "LAIR_NODE": "second"})
    try:
        second.start(wait=False)
        assert second.up is not None and await asyncio.to_thread(second.up.wait, 30) != 0
        assert "--take-over" in second.output and "Traceback" not in second.output
    finally:
        second.close()


async def test_another_node_of_the_same_name_is_refused(own: Site, etcd: EtcdCluster, tmp_path: Path) -> None:
    """What one of them promises would count for both."""
    command = ("ceryx", "--role", "proxy")
    (node,) = own.lair.call("GET", "/api/nodes/").json()
    second = Lair(tmp_path / "second", {"LAIR_STORE": etcd.url("/lair"), "LAIR_NODE": node["node"]}, command=command)
    try:
        second.start(wait=False)
        assert second.up is not None and await asyncio.to_thread(second.up.wait, 30) != 0
        assert f"Another proxy node is called {node['node']}" in second.output and "Traceback" not in second.output
    finally:
        second.close()


async def test_a_batch_that_etcd_does_not_take_as_one(own: Site) -> None:
    """It is done in several, and says so; a condition that does not hold is found before the first."""
    hosts = [f"h{number}.example.com" for number in range(300)]

    def writes(expect: int | None) -> list[RouteWrite]:
        routes = [Route(source=host, target="http://127.0.0.1:1") for host in hosts]
        return [RouteWrite(source=route.source, route=route, expect=expect) for route in routes]

    result = await own.ceryx.batch(writes(0))
    assert result.transactions == 3
    with pytest.raises(PreconditionFailed):
        await own.ceryx.batch([*(RouteWrite(source=host) for host in hosts[:-1]), writes(0)[-1]])
    listed = json.loads(own.lair.call("GET", "/api/routes/").body)
    assert {route["source"] for route in listed} >= set(hosts)


async def test_a_route_that_is_not_there_is_deleted_at_once(own: Site, tmp_path: Path) -> None:
    """Others write to the same cluster: no node ever hears of their revisions, and nobody waits for that."""
    await own.ceryx.batch([RouteWrite(source="one.example.com", route=Route(source="one.example.com"))])
    await own.put("etcd", "other", ["true"], directory=tmp_path)
    answer = await asyncio.to_thread(own.lair.call, "DELETE", "/api/routes/nothing.example.com/")
    assert (answer.status, answer.headers["lair-served"]) == (204, "true")
    (node,) = await own.ceryx.nodes()
    assert node.lag == 0


def test_one_that_waits_for_etcd_can_be_stopped(tmp_path: Path) -> None:
    """It says what it waits for, and ends when it is told to; so does one in the background."""
    lair = Lair(tmp_path / "waits", {"LAIR_STORE": "etcd://127.0.0.1:1/lair"})
    try:
        lair.start(wait=False)
        while "etcd does not answer (127.0.0.1:1)" not in lair.output:
            assert lair.up is not None and lair.up.poll() is None
            time.sleep(0.05)
        assert lair.signal(signal.SIGTERM) == 0
    finally:
        lair.close()


def test_the_background_has_the_same_store(etcd: EtcdCluster, tmp_path: Path) -> None:
    lair = Lair(tmp_path / "behind")
    try:
        lair.cli("up", "--detach", "--store", etcd.url("/behind"))
        assert not (lair.data_dir / "ceryx.db").exists()
    finally:
        lair.cli("down", check=False)
        lair.close()
