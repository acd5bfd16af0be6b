"""One dead server and all the world at its door: the others' visitors notice nothing, and memory stays bounded."""

from __future__ import annotations

import asyncio
import re
import resource
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.ceryx.nginx.conftest import Serve, StartProxy
from tests.ceryx.nginx.world import BROWSER, Proxy, Waker, head, read_head, until

pytestmark = pytest.mark.anyio
HOST = "blog--demo.localhost"

WANTED = 10_000
"""Held requests, where the machine allows it: each is an open file of the visitor's and one of NGINX's."""
SPARE = 1_000
AT_ONCE = 200
PER_REQUEST = 64 << 10
"""Bytes of NGINX's memory that one held request may cost."""


def memory(pids: list[int]) -> int:
    """The bytes that these processes have to themselves; what they share is counted once."""
    rollups = [Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in pids]
    return 1024 * sum(int(found) for text in rollups for found in re.findall(r"^Pss:\s+(\d+) kB", text, re.MULTILINE))


@asynccontextmanager
async def visitors(proxy: Proxy, count: int) -> AsyncIterator[list[socket.socket]]:
    """As many requests to the dead server; plain sockets, since nothing is read from them."""
    opened = list[socket.socket]()
    request = head(HOST, "GET", "/", None, {})
    loop = asyncio.get_running_loop()

    async def visit() -> None:
        visitor = socket.socket()
        opened.append(visitor)
        visitor.setblocking(False)
        await loop.sock_connect(visitor, ("127.0.0.1", proxy.port))
        await loop.sock_sendall(visitor, request)

    try:
        for at in range(0, count, AT_ONCE):
            await asyncio.gather(*(visit() for _ in range(min(AT_ONCE, count - at))))
        yield opened
    finally:
        for visitor in opened:
            visitor.close()


async def test_ten_thousand_held_on_one_dead_server(start_proxy: StartProxy, waker: Waker, serve: Serve) -> None:
    """All that fit are held, the next gets a clean answer, and other hosts are answered while the crowd stands."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    count = min(WANTED, hard - SPARE)
    try:
        proxy = await start_proxy(held_per_host=count, held_total=count + 100, wake_timeout=600, patience=0.05)
        await proxy.open(waker)
        await proxy.put(HOST, waker=waker.url)
        await proxy.put("sleeping.localhost", waker=waker.url)
        server = await serve()
        await proxy.live("awake.localhost", server)
        pids = proxy.workers()

        async def are_held(wanted: int) -> bool:
            return (await proxy.control.hello(1)).held == wanted

        assert (await proxy.request("awake.localhost")).status == 200
        before = memory(pids)
        async with visitors(proxy, count):
            await until(lambda: are_held(count), timeout=60)
            grown = memory(pids) - before
            print(f"{count} held: {grown / count / 1024:.1f} kB each, {grown >> 20} MB in all, from {before >> 20} MB")
            assert grown < count * PER_REQUEST
            for method, headers, form in (("GET", {}, "json"), ("POST", {}, "json"), ("GET", BROWSER, "html")):
                found = await proxy.request(HOST, method, body=b"x" if method == "POST" else None, **headers)
                assert (found.status, found.state) == (503, "over-capacity")
                assert form in found.headers["content-type"]
            for _ in range(50):
                assert (await proxy.request("awake.localhost")).status == 200
                assert (await proxy.request("awake.localhost", "POST", body=b"x")).status == 200
            assert (await proxy.request("sleeping.localhost", **BROWSER)).body[:4] == b"PAGE"
            held = asyncio.create_task(proxy.request("sleeping.localhost"))
            await until(lambda: are_held(count + 1))
            await proxy.live("sleeping.localhost", server, "i-2")
            assert (await held).status == 200
            assert await are_held(count), "the crowd stood all the time"
        await until(lambda: are_held(0), timeout=60)
        reader, writer = await proxy.connect()
        writer.write(head(HOST, "GET", "/", None, {}))
        await until(lambda: are_held(1))
        await proxy.live(HOST, server, "i-3")
        assert (await read_head(reader)).status == 200, "places that were left are free again"
        writer.close()
        assert proxy.workers() == pids
        assert proxy.errors() == []
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
