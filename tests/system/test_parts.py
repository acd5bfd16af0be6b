"""The system in parts that share etcd: two of each, killed, paused and taken over, while visitors come and go."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.etcd import EtcdCluster, running_etcd
from tests.system.lair import Lair
from tests.system.site import Site, site_of

pytestmark = [pytest.mark.anyio, pytest.mark.system]

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
    sites: list[Site] = field(default_factory=list)
    """One for each proxy: its visitors, and the API of the first SourceLair API."""

    def all(self) -> list[Lair]:
        return [*self.ceryx, *self.api, *self.hemera, *self.proxies]


def make(directory: Path, store: str) -> Parts:
    env = {"LAIR_STORE": store, "LAIR_IDLE_TIMEOUT": "600"}
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


@pytest.fixture
async def parts(etcd: EtcdCluster, tmp_path: Path) -> AsyncIterator[Parts]:
    made = make(tmp_path, etcd.url("/lair"))
    try:
        for lair in made.all():
            lair.start(wait=False)
        for lair in made.all():
            await asyncio.to_thread(lair.wait_ready)
        async with contextlib.AsyncExitStack() as stack:
            made.sites = [await stack.enter_async_context(site_of(made.api[0])) for _ in made.proxies]
            for site, proxy in zip(made.sites, made.proxies, strict=True):
                site.address = ("127.0.0.1", proxy.port)
            yield made
    finally:
        for lair in reversed(made.all()):
            with contextlib.suppress(ProcessLookupError):
                if lair.up is not None:
                    lair.up.send_signal(signal.SIGCONT)
            lair.close()


async def test_two_of_each(parts: Parts, tmp_path: Path) -> None:
    """A server is created at any API, woken through either node, and one visit on one node keeps it awake on both."""
    first, second = parts.sites
    app = await first.identity("parts", "both", tmp_path)
    assert (await app.fetch("/")).status == 200
    assert (await second.fetch(app.host)).status == 200
    assert len(app.starts()) == 1
    nodes = {node["node"]: node for node in parts.hemera[1].call("GET", "/api/nodes/").json()}
    assert set(nodes) == {"proxy-1", "proxy-2"}
    assert all(node["state"] == "live" and node["lag"] == 0 for node in nodes.values())
    for lair in (*parts.ceryx, *parts.api, *parts.hemera):
        assert lair.call("GET", "/api/servers/parts/both/").json()["state"] == "awake"
        assert [route["source"] for route in lair.call("GET", "/api/routes/").json()] == [app.host]
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", parts.proxies[0].api_port), 1)
    await app.stop()
    assert (await second.fetch(app.host)).status == 200
    assert len(app.starts()) == 2
