"""Streams that keep nothing awake by being open, and those that do while bytes flow."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest
from tests.ceryx.conftest import Ceryx, make_settings
from tests.ceryx.nginx.conftest import Serve, StartProxy
from tests.ceryx.nginx.test_settings import compiled
from tests.ceryx.nginx.world import Message, Proxy, Server, head, read_head, until

from sourcelair.ceryx.agent import Agent, reports
from sourcelair.ceryx.agent.flows import read_bytes
from sourcelair.client.ceryx import CeryxClient, Route, RouteSettings
from sourcelair.client.policy import QuietRule

pytestmark = pytest.mark.anyio
HOST = "blog--demo.localhost"
Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def echo(message: Message, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """An app with a WebSocket that says everything again, and events that never come."""
    if message.headers.get("upgrade") == "websocket":
        writer.write(b"HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n")
    else:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
    await writer.drain()
    while data := await reader.read(100):
        writer.write(data)
        await writer.drain()
    return False


async def open_stream(proxy: Proxy, path: str = "/", *, events: bool = False) -> Connection:
    reader, writer = await proxy.connect()
    asked = {"Accept": "text/event-stream"} if events else {"Upgrade": "websocket"}
    writer.write(head(HOST, "GET", path, None, asked).replace(b"Connection: close", b"Connection: Upgrade"))
    assert (await read_head(reader)).status == (200 if events else 101)
    return reader, writer


async def numbers(proxy: Proxy) -> tuple[int, int, int, int]:
    counts = await proxy.count("i-1")
    return counts.in_flight, counts.streams, counts.idle_streams, counts.robots_in_flight


@pytest.mark.parametrize(
    ("settings", "idle"),
    [(None, 0), ({"streams": "never"}, 2), ({"streams": "flow"}, 2), ({"quiet": [QuietRule(path="/")]}, 2)],
    ids=["always", "never", "flow", "quiet"],
)
async def test_idle_streams_are_counted_apart(
    proxy: Proxy, serve: Serve, settings: dict[str, object], idle: int
) -> None:
    """While they are open, until they end; the requests beside them are none."""
    server = await serve(Server(echo))
    await proxy.live(HOST, server, settings=compiled(**settings) if settings else None)
    streams = [await open_stream(proxy), await open_stream(proxy, events=True)]
    assert await numbers(proxy) == (2, 2, idle, 0)
    counts = await proxy.count("i-1")
    assert (counts.total, counts.robots) == (2, 2 if settings and "quiet" in settings else 0)
    assert len(await proxy.control.flows()) == (2 if settings == {"streams": "flow"} else 0)
    for _, writer in streams:
        writer.close()

    async def are_over() -> bool:
        return await numbers(proxy) == (0, 0, 0, 0)

    await until(are_over)
    assert await proxy.control.flows() == []
    assert await proxy.control.forget(["i-1"]) == ["i-1"]


async def test_a_robots_stream_is_idle_on_every_route(proxy: Proxy, serve: Serve) -> None:
    """Robots keep nothing awake; taken off once, not twice."""
    await proxy.live(HOST, await serve(Server(echo)))
    reader, writer = await proxy.connect()
    writer.write(head(HOST, "GET", "/", None, {"Accept": "text/event-stream", "User-Agent": "UptimeRobot/2.0"}))
    await read_head(reader)
    assert await numbers(proxy) == (1, 1, 1, 0)
    writer.close()


async def test_a_watched_stream_is_found_in_the_kernel(proxy: Proxy, serve: Serve) -> None:
    """By both ends of the visitor's connection; its bytes grow by what passes, in either direction."""
    await proxy.live(HOST, await serve(Server(echo)), settings=compiled(streams="flow"))
    reader, writer = await open_stream(proxy)
    (flow,) = await proxy.control.flows()
    assert flow.instance == "i-1"
    assert flow.client == writer.get_extra_info("sockname")
    assert flow.server == ("127.0.0.1", proxy.port)
    before = read_bytes([flow])[flow]
    writer.write(b"12345")
    assert await reader.readexactly(5) == b"12345"
    await until(lambda: read_bytes([flow])[flow] >= before + 10)
    writer.close()
    await until(lambda: read_bytes([flow]) == {})


async def test_streams_of_a_killed_worker_are_over(start_proxy: StartProxy, serve: Serve) -> None:
    """Nothing of them is left, neither counts nor what was watched."""
    proxy = await start_proxy(nginx_workers=1)
    await proxy.open()
    await proxy.live(HOST, await serve(Server(echo)), settings=compiled(streams="flow"))
    streams = [await open_stream(proxy) for _ in range(3)]
    assert await numbers(proxy) == (3, 3, 3, 0)
    os.kill(proxy.workers()[0], signal.SIGKILL)

    async def are_over() -> bool:
        return await numbers(proxy) == (0, 0, 0, 0)

    await until(are_over)
    assert await proxy.control.flows() == []
    assert (await proxy.count("i-1")).total == 3
    streams.append(await open_stream(proxy))
    assert await numbers(proxy) == (1, 1, 1, 0)
    for _, writer in streams:
        writer.close()


async def test_idle_streams_never_hide_a_request_in_flight(start_proxy: StartProxy, serve: Serve) -> None:
    """Streams come, end and are taken back all the time: what is left without them is never less than what is open."""
    proxy = await start_proxy(stall=0.003)
    await proxy.open()

    async def slow(message: Message, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        if message.path == "/slow":
            await reader.read()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")
        await asyncio.sleep(0.005)  # a short stream
        return False

    server = await serve(Server(slow))
    await proxy.live(HOST, server, settings=compiled(streams="never"))
    _, writer = await proxy.connect()
    writer.write(head(HOST, "GET", "/slow", None, {}))
    await until(lambda: len(server.requests) == 1)
    is_over = False

    async def come_and_go() -> None:
        while not is_over:
            await proxy.request(HOST, Accept="text/event-stream")

    async def publish() -> None:
        while not is_over:
            await proxy.live(HOST, server, settings=compiled(streams="never"))

    visitors = [asyncio.create_task(come_and_go()) for _ in range(8)]
    visitors.append(asyncio.create_task(publish()))
    readings = [await numbers(proxy) for _ in range(200)]
    async with asyncio.timeout(20):
        while not any(idle for _, _, idle, _ in readings):
            readings.append(await numbers(proxy))
    is_over = True
    await asyncio.gather(*visitors)
    assert all(in_flight - idle >= 1 for in_flight, _, idle, _ in readings)
    writer.close()


async def test_only_bytes_keep_a_server_awake(
    api: Ceryx, start_proxy: StartProxy, serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the kernel to the API: an open stream is a visit when it begins, then when something passes on it."""
    monkeypatch.setattr(reports, "HEARTBEAT", 0.05)
    monkeypatch.setattr(reports, "LATELY", 0.2)
    proxy = await start_proxy()
    server = await serve(Server(echo))
    client = CeryxClient(api.url, "service")
    agent = Agent(
        make_settings(tmp_path, node="n1"), client, proxy.control, directory=tmp_path / "agent", waker=None,
        waker_token=None,
    )  # fmt: skip
    task = asyncio.create_task(agent.run())
    try:
        target = f"http://127.0.0.1:{server.port}"
        await client.put_route(
            Route(source=HOST, target=target, instance="i-1", settings=RouteSettings(streams="flow"))
        )
        await until(lambda: agent.ready)
        reader, writer = await open_stream(proxy)

        async def settled() -> float:
            """The moment of the last activity, once three heartbeats have not moved it."""
            last, same = 0.0, 0
            async with asyncio.timeout(20):
                while same < 8:
                    (found,) = await client.activity(["i-1"])
                    moment = found.last_active if found.idle_streams else None
                    same = same + 1 if moment == last else 0
                    last = moment or 0.0
                    await asyncio.sleep(0.05)
            assert (found.in_flight, found.streams, found.active) == (1, 1, 0)
            return last

        began = await settled()
        writer.write(b"12345")
        await reader.readexactly(5)

        async def has_moved() -> bool:
            return ((await client.activity(["i-1"]))[0].last_active or 0) > began

        await until(has_moved)
        await settled()
        monkeypatch.setattr(reports, "HEARTBEAT", 60.0)
        for flowing in (False, True):  # since the last heartbeat: whoever withdraws it must hear of that
            if flowing:
                writer.write(b"12345")
                await reader.readexactly(5)
            withdrawn = await client.put_route(Route(source=HOST, settings=RouteSettings(streams="flow")))
            found = await client.withdrawal("i-1", withdrawn, until="quiet", wait=5)
            assert [(node.in_flight, node.streams, node.idle_streams) for node in found.nodes] == [(1, 1, 1)]
            assert [node.flowing for node in found.nodes] == [flowing]
        writer.close()
        assert (await client.withdrawal("i-1", withdrawn, until="drained", wait=5)).drained
    finally:
        task.cancel()
        await asyncio.wait([task])
        await client.close()
