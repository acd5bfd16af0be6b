"""Who waits, and who must not: what is held for one server costs no visitor of an awake one anything.

Caps are exact within a worker; two may both take the last place in the same moment. So who counts has one worker.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from tests.ceryx.nginx.conftest import Serve, StartProxy
from tests.ceryx.nginx.world import Message, Proxy, Server, Waker, answer, app, head, read_body, read_head, until

pytestmark = pytest.mark.anyio
HOST = "blog--demo.localhost"


def reluctant(crowd: int) -> Server:
    """An app that answers no GET before so many of them are there, and a POST without an end."""
    arrived = 0
    all_here = asyncio.Event()

    async def handler(message: Message, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal arrived
        message.body = await read_body(reader, message.headers)
        if message.method == "POST":
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n")
            await writer.drain()
            await all_here.wait()
            writer.write(b"0\r\n\r\n")
            return
        arrived += 1
        if arrived == crowd:
            all_here.set()
        await all_here.wait()
        writer.write(answer(200, "ok"))

    return Server(handler, backlog=500)


async def test_a_full_gate_refuses_only_who_would_wait(start_proxy: StartProxy, waker: Waker, serve: Serve) -> None:
    """Visitors of servers that are awake, redirects and unknown hosts find no cap."""
    proxy = await start_proxy(nginx_workers=1, held_per_host=10, held_total=10, wake_timeout=20)
    await proxy.open(waker)
    server = await serve()
    await proxy.put(HOST, waker=waker.url)
    await proxy.live("awake.localhost", server)
    await proxy.put("moved.localhost", "redirect", location="https://new.example")
    await proxy.live("secure.localhost", server, "i-2", enforce_https=True)
    held = [asyncio.create_task(proxy.request(HOST, path=f"/{number}")) for number in range(11)]
    await until(lambda: any(task.done() for task in held))
    (refused,) = [task.result() for task in held if task.done()]
    assert (refused.status, refused.state) == (503, "over-capacity")
    assert (await proxy.request("awake.localhost")).status == 200
    assert (await proxy.request("awake.localhost", "POST", body=b"x")).status == 200
    assert (await proxy.request("moved.localhost")).status == 301
    assert (await proxy.request("secure.localhost")).status == 301
    assert (await proxy.request("nobody.example")).state == "unknown-host"
    await proxy.live(HOST, server, "i-3")
    assert sorted(message.status for message in await asyncio.gather(*held)) == [200] * 10 + [503]


async def test_open_connections_are_told(start_proxy: StartProxy) -> None:
    """Those of all workers, idle ones too; not the agent's own. None are left when they are closed."""
    proxy = await start_proxy(nginx_workers=2)
    await proxy.open()

    async def there_are(number: int) -> bool:
        return (await proxy.control.hello(1)).connections == number

    await until(lambda: there_are(0))
    opened = [await proxy.connect() for _ in range(25)]
    await until(lambda: there_are(25))
    for _, writer in opened[5:]:
        writer.close()
    await until(lambda: there_are(5))
    for _, writer in opened[:5]:
        writer.close()
    await until(lambda: there_are(0))


async def test_workers_share_the_cap(start_proxy: StartProxy, waker: Waker, serve: Serve) -> None:
    """All together hold what may be held, or one more."""
    proxy = await start_proxy(nginx_workers=2, held_per_host=10, wake_timeout=20)
    await proxy.open(waker)
    await proxy.put(HOST, waker=waker.url)
    held = [asyncio.create_task(proxy.request(HOST, path=f"/{number}")) for number in range(40)]
    await until(lambda: sum(task.done() for task in held) >= 29)
    assert {task.result().state for task in held if task.done()} == {"over-capacity"}
    await proxy.live(HOST, await serve())
    assert sum(message.status == 200 for message in await asyncio.gather(*held)) in {10, 11}


@pytest.mark.parametrize(
    ("body", "length"), [(b"x", 100_000), (b"x", 1)], ids=["a slow upload", "an answer without an end"]
)
async def test_one_open_request_keeps_nobody_waiting(
    start_proxy: StartProxy, waker: Waker, serve: Serve, body: bytes, length: int
) -> None:
    """All others reach an awake server at once: it answers none of them before all are there."""
    proxy = await start_proxy(nginx_workers=1)
    await proxy.open(waker)
    await proxy.live(HOST, await serve(reluctant(200)))
    reader, writer = await proxy.connect()
    writer.write(f"POST / HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {length}\r\n\r\n".encode() + body)
    if length == len(body):
        assert (await read_head(reader)).status == 200
    async with asyncio.timeout(10):
        found = await asyncio.gather(*(proxy.request(HOST, path=f"/{number}") for number in range(200)))
    assert {message.status for message in found} == {200}
    writer.close()


async def test_after_a_wake_nobody_stands_in_line_for_long(start_proxy: StartProxy, waker: Waker, serve: Serve) -> None:
    """Once all that waited were let go, newcomers go straight on, though no answer has come yet."""
    proxy = await start_proxy(nginx_workers=1, wake_timeout=20)
    await proxy.open(waker)
    await proxy.put(HOST, waker=waker.url)
    server = await serve(reluctant(200))
    held = [asyncio.create_task(proxy.request(HOST)) for _ in range(2)]
    await until(lambda: len(waker.wakes) == 1)
    await proxy.live(HOST, server)
    await until(lambda: len(server.requests) == 2)
    async with asyncio.timeout(10):
        found = await asyncio.gather(*held, *(proxy.request(HOST, path=f"/{number}") for number in range(198)))
    assert {message.status for message in found} == {200}


async def test_held_bodies_pass_a_small_backlog(start_proxy: StartProxy, waker: Waker, serve: Serve) -> None:
    """Bodies are read as soon as the server is there, all at once; they are sent through the window all the same."""
    proxy = await start_proxy(wake_timeout=30)
    await proxy.open(waker)
    server = app()
    server.backlog = 5
    await serve(server)
    await proxy.put(HOST, waker=waker.url)
    held = [asyncio.create_task(proxy.request(HOST, "POST", f"/{n}", f"body {n}".encode())) for n in range(500)]
    await until(lambda: len(waker.wakes) == 1)
    await proxy.live(HOST, server, waker=waker.url)
    found = await asyncio.gather(*held)
    assert {message.status for message in found} == {200}
    assert sorted(message.body for message in server.requests) == sorted(f"body {n}".encode() for n in range(500))
    assert len(waker.wakes) == 1
    assert proxy.errors() == []


async def uploads(proxy: Proxy, bodies: list[bytes], withdraw: Callable[[], object]) -> list[asyncio.Task[Message]]:
    """Begin uploads to a server that is awake, take it away, and send the rest. Returns the answers to come."""
    connections = [await proxy.connect() for _ in bodies]
    for (_, writer), body in zip(connections, bodies, strict=True):
        writer.write(head(HOST, "POST", "/", body, {"Expect": "100-continue"}))
    for reader, _ in connections:  # the body is asked for: so the request was let in
        assert (await read_head(reader)).status == 100
    await withdraw()  # type: ignore[misc]
    for (_, writer), body in zip(connections, bodies, strict=True):
        writer.write(body)

    async def read(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Message:
        try:
            return await read_head(reader)
        finally:
            writer.close()

    return [asyncio.create_task(read(*connection)) for connection in connections]


async def test_the_bytes_of_held_bodies_have_a_cap(start_proxy: StartProxy, waker: Waker, serve: Serve) -> None:
    """Uploads whose server went meanwhile wait with their bodies: as many as there is room for."""
    proxy = await start_proxy(nginx_workers=1, held_bytes_per_host=250_000, wake_timeout=20)
    await proxy.open(waker)
    server = await serve()
    await proxy.live(HOST, server, waker=waker.url)
    answers = await uploads(proxy, [b"x" * 100_000] * 4, lambda: proxy.put(HOST, waker=waker.url))
    await until(lambda: sum(task.done() for task in answers) == 2)
    assert {task.result().state for task in answers if task.done()} == {"over-capacity"}
    await proxy.live(HOST, server, "i-2", waker=waker.url)
    assert sorted(message.status for message in await asyncio.gather(*answers)) == [200, 200, 503, 503]
    assert [len(message.body) for message in server.requests] == [100_000] * 2
    answers = await uploads(proxy, [b"x" * 100_000] * 2, lambda: proxy.put(HOST, waker=waker.url))
    await proxy.live(HOST, server, "i-3", waker=waker.url)
    assert {message.status for message in await asyncio.gather(*answers)} == {200}, "the room was given back"


async def test_a_single_body_may_have_any_size(start_proxy: StartProxy, waker: Waker, serve: Serve) -> None:
    """It lies on the disk already; to refuse it would win nothing."""
    proxy = await start_proxy(held_bytes_per_host=10, held_bytes_total=10, wake_timeout=20)
    await proxy.open(waker)
    server = await serve()
    await proxy.live(HOST, server, waker=waker.url)
    (answer_to_come,) = await uploads(proxy, [b"x" * 3_000_000], lambda: proxy.put(HOST, waker=waker.url))
    await until(lambda: len(waker.wakes) == 1)
    await proxy.live(HOST, server, "i-2", waker=waker.url)
    assert (await answer_to_come).status == 200
