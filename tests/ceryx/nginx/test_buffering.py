"""What a route says of buffering, in a real NGINX: what is passed on as it comes, and what is taken in first."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import re
import ssl
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tests.ceryx.nginx.conftest import Serve, StartProxy
from tests.ceryx.nginx.test_settings import compiled
from tests.ceryx.nginx.world import (
    Message,
    Proxy,
    Server,
    Waker,
    answer,
    free_port,
    head,
    read_body,
    read_head,
    until,
)

from sourcelair.client.policy import QuietRule

pytestmark = pytest.mark.anyio
HOST = "blog--demo.localhost"
LARGE = 24 << 20


class Slow:
    """An app that tells how much of a body it has, and goes on when the test says so."""

    def __init__(self) -> None:
        self.got = 0
        self.changed = asyncio.Event()
        self.digest = hashlib.sha256()
        self.server = Server(self.handle)

    async def handle(self, message: Message, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        left = int(message.headers["content-length"])
        while left and (data := await reader.read(min(left, 1 << 16))):
            left -= len(data)
            self.got += len(data)
            self.digest.update(data)
            self.changed.set()
        if left == 0:
            writer.write(answer(200, self.digest.hexdigest()))
        return False

    async def has(self, size: int) -> None:
        """Wait until it has so much."""
        async with asyncio.timeout(5):
            while self.got < size:
                self.changed.clear()
                await self.changed.wait()


def chunked(body: bytes) -> bytes:
    parts = [body[at : at + 50_000] for at in range(0, len(body), 50_000)]
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


def chunked_head(host: str, method: str = "POST", **headers: str) -> bytes:
    return head(host, method, "/", None, {"Transfer_Encoding": "chunked", **headers})


async def in_flight(proxy: Proxy, instance: str, number: int) -> bool:
    return (await proxy.count(instance)).in_flight == number


async def test_without_a_word_a_body_of_known_length_is_read_first(proxy: Proxy, serve: Serve) -> None:
    """What `none` is compared with: the app sees nothing of it before it is whole."""
    slow = Slow()
    await proxy.live(HOST, await serve(slow.server))
    reader, writer = await proxy.connect()
    body = os.urandom(200_000)
    writer.write(head(HOST, "POST", "/", body, {}) + body[:-1])
    await writer.drain()
    assert (await proxy.request(HOST, "POST", body=b"x")).status == 200, "another one passes it"
    assert slow.got == 1
    writer.write(body[-1:])
    assert (await read_head(reader)).status == 200
    writer.close()


@pytest.mark.parametrize("method", ["POST", "GET"])
async def test_none_passes_an_upload_on_while_it_comes(proxy: Proxy, serve: Serve, method: str) -> None:
    """Of known length too; it is counted all the while, and arrives once and whole."""
    slow = Slow()
    await proxy.live(HOST, await serve(slow.server), "i-1", settings=compiled(buffering="none"))
    body = os.urandom(300_000)
    reader, writer = await proxy.connect()
    writer.write(head(HOST, method, "/", body, {}))
    for at in range(0, len(body), 100_000):
        writer.write(body[at : at + 100_000])
        await writer.drain()
        await slow.has(at + 100_000)
        assert await in_flight(proxy, "i-1", 1)
    found = await read_head(reader)
    assert (await read_body(reader, found.headers)).decode() == hashlib.sha256(body).hexdigest()
    writer.close()
    assert len(slow.server.requests) == 1
    await until(lambda: in_flight(proxy, "i-1", 0))
    assert (await proxy.count("i-1")).total == 1


async def test_none_tries_once(proxy: Proxy, waker: Waker, serve: Serve) -> None:
    """An app that breaks off in an upload's midst gets it never again, and nobody is woken for it."""

    async def hang_up(message: Message, reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> bool:
        await reader.readexactly(10)
        return False

    server = await serve(Server(hang_up))
    await proxy.live(HOST, server, "i-1", waker=waker.url, settings=compiled(buffering="none"))
    for method in ("POST", "GET"):
        found = await proxy.request(HOST, method, body=b"x" * 100_000)
        assert (found.status, found.state) == (502, "broken")
    assert [request.method for request in server.requests] == ["POST", "GET"]
    assert waker.wakes == []
    await until(lambda: in_flight(proxy, "i-1", 0))


async def test_none_to_a_dead_server_asks_the_waker(proxy: Proxy, waker: Waker) -> None:
    """It ends with 503, as its body can't be told again; whoever comes next shall find a server."""
    values = {"address": "127.0.0.1", "port": free_port(), "instance": "i-dead", "waker": waker.url}
    await proxy.put(HOST, "live", **values, settings=compiled(buffering="none"))
    found = await proxy.request(HOST, "POST", body=b"x" * 1000)
    assert (found.status, found.state) == (503, "unreachable")
    await until(lambda: len(waker.wakes) == 1)
    assert (waker.wakes[0]["reason"], waker.wakes[0]["instance"]) == ("unreachable", "i-dead")
    await until(lambda: in_flight(proxy, "i-dead", 0))


@pytest.mark.parametrize("buffering", ["none", "request", "response"])
@pytest.mark.parametrize("unknown", [False, True], ids=["known length", "unknown length"])
async def test_a_sleeping_server_gets_the_body_once_and_whole(
    proxy: Proxy, waker: Waker, serve: Serve, buffering: str, unknown: bool
) -> None:
    """Held while it wakes, whatever is buffered."""
    server = await serve()
    settings = compiled(buffering=buffering)

    async def wake(_: dict[str, Any]) -> bytes:
        revision = await proxy.live(HOST, server, "i-1", waker=waker.url, settings=settings)
        return answer(200, json.dumps({"instance": "i-1", "revision": revision}))

    waker.on_wake = wake
    await proxy.put(HOST, waker=waker.url, settings=settings)
    bodies = [os.urandom(400_000) for _ in range(8)]

    async def send(body: bytes) -> int:
        if not unknown:
            return (await proxy.request(HOST, "POST", body=body)).status
        reader, writer = await proxy.connect()
        writer.write(chunked_head(HOST) + chunked(body))
        status = (await read_head(reader)).status
        writer.close()
        return status

    assert await asyncio.gather(*map(send, bodies)) == [200] * len(bodies)
    assert sorted(request.body for request in server.requests) == sorted(bodies)
    lengths = ["content-length" in request.headers for request in server.requests]
    assert lengths == [not unknown or buffering != "none"] * len(bodies)
    await until(lambda: in_flight(proxy, "i-1", 0))
    assert (await proxy.count("i-1")).total == len(bodies)


async def test_beside_other_settings(proxy: Proxy, waker: Waker, serve: Serve) -> None:
    """Rules and times of the same route count as ever; a change is applied at once, and so is its end."""
    rules = [QuietRule(path="/quiet"), QuietRule(path="/loud*", wakes=True)]
    settings = compiled(buffering="request", quiet=rules, wake_timeout=0.05)
    await proxy.put(HOST, waker=waker.url, settings=settings)
    assert (await proxy.request(HOST, path="/quiet")).state == "asleep"
    assert (await proxy.request(HOST, path="/loud", User_Agent="UptimeRobot/2.0")).status == 504
    server = await serve()
    for words, is_read_first in ((settings, True), (compiled(buffering="none", quiet=rules), False), (None, False)):
        await proxy.live(HOST, server, waker=waker.url, settings=words)
        reader, writer = await proxy.connect()
        writer.write(chunked_head(HOST) + chunked(b"x" * 200_000))
        assert (await read_head(reader)).status == 200
        writer.close()
        assert ("content-length" in server.requests[-1].headers) is is_read_first


async def test_request_reads_every_body_first(proxy: Proxy, serve: Serve) -> None:
    """Of unknown length too: the app is told its length, and sees nothing of it before it is whole."""
    slow = Slow()
    await proxy.live(HOST, await serve(slow.server), settings=compiled(buffering="request"))
    reader, writer = await proxy.connect()
    body = os.urandom(200_000)
    sent = chunked(body)
    writer.write(chunked_head(HOST) + sent[:-5])
    await writer.drain()
    assert (await proxy.request(HOST, "POST", body=b"x")).status == 200, "another one passes it"
    assert slow.got == 1
    writer.write(sent[-5:])
    assert (await read_head(reader)).status == 200
    writer.close()
    assert slow.server.requests[-1].headers["content-length"] == "200000"


async def test_a_body_that_was_read_first_is_held_when_its_server_goes(
    start_proxy: StartProxy, waker: Waker, serve: Serve
) -> None:
    """And its bytes count for the caps, also where nobody knew how many there would be."""
    proxy = await start_proxy(wake_timeout=20, nginx_workers=1, held_bytes_per_host=300_000)
    await proxy.open(waker)
    settings = compiled(buffering="request")
    server = await serve()
    await proxy.live(HOST, server, "i-1", waker=waker.url, settings=settings)
    bodies = [os.urandom(200_000) for _ in range(2)]
    opened = [await proxy.connect() for _ in bodies]
    for (_, writer), body in zip(opened, bodies, strict=True):
        writer.write(chunked_head(HOST) + chunked(body)[:-5])
        await writer.drain()
    await proxy.request(HOST)  # goes the same way, after them
    await proxy.put(HOST, waker=waker.url, settings=settings)
    opened[0][1].write(b"0\r\n\r\n")
    await until(lambda: len(waker.wakes) == 1)
    opened[1][1].write(b"0\r\n\r\n")
    refused = await read_head(opened[1][0])
    await proxy.live(HOST, server, "i-2", waker=waker.url, settings=settings)
    answered = await read_head(opened[0][0])
    for _, writer in opened:
        writer.close()
    assert (refused.status, refused.state, answered.status) == (503, "over-capacity", 200)
    assert [request.body for request in server.requests if request.method == "POST"] == bodies[:1]
    assert proxy.errors() == []


class Large:
    """An app with a large answer, that notes when it has got rid of it."""

    def __init__(self, size: int = LARGE, **headers: str) -> None:
        self.body = os.urandom(size)
        self.headers = headers
        self.freed = asyncio.Event()
        self.server = Server(self.handle)

    async def handle(self, message: Message, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        await read_body(reader, message.headers)
        writer.transport.set_write_buffer_limits(0)
        writer.write(answer(200, self.body, **self.headers))
        await writer.drain()
        self.freed.set()
        return False


def keeps_an_answer(proxy: Proxy) -> bool:
    """Tell whether a worker has a file open in which an answer lies. (NGINX has taken its name off at once.)"""
    configured = (proxy.directory / "nginx.conf").read_text()
    (place,) = re.findall(r'proxy_temp_path "([^"]+)"', configured)
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            if str(link.readlink()).startswith(place):
                return True
    return False


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_response_frees_the_app_before_its_visitor_has_all(proxy: Proxy, serve: Serve, method: str) -> None:
    """The answer arrives whole at a visitor who reads slowly; until then it counts as in flight."""
    large = Large()
    await proxy.live(HOST, await serve(large.server), "i-1", settings=compiled(buffering="response"))
    reader, writer = await proxy.connect()
    writer.write(
        head(HOST, method, "/", b"ab" if method == "POST" else None, {}) + (b"ab" if method == "POST" else b"")
    )
    found = await read_head(reader)
    async with asyncio.timeout(10):
        await large.freed.wait()
    assert await in_flight(proxy, "i-1", 1)
    assert await read_body(reader, found.headers) == large.body
    writer.close()
    await until(lambda: in_flight(proxy, "i-1", 0))
    assert [request.method for request in large.server.requests] == [method]


async def test_without_a_word_a_slow_visitor_keeps_the_app(proxy: Proxy, serve: Serve) -> None:
    """What `response` is compared with; nor does an app take the disk by a header of its own."""
    large = Large(X_Accel_Buffering="yes")
    await proxy.live(HOST, await serve(large.server))
    reader, writer = await proxy.connect()
    writer.write(head(HOST, "GET", "/", None, {}))
    found = await read_head(reader)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(3):
            await large.freed.wait()
    assert await read_body(reader, found.headers) == large.body
    writer.close()


async def test_a_visitor_who_leaves_a_buffered_answer(proxy: Proxy, serve: Serve) -> None:
    """His count is given back, and the file is gone with him."""
    large = Large()
    await proxy.live(HOST, await serve(large.server), "i-1", settings=compiled(buffering="response"))
    reader, writer = await proxy.connect()
    writer.write(head(HOST, "GET", "/", None, {}))
    await read_head(reader)
    await large.freed.wait()
    assert keeps_an_answer(proxy)
    writer.transport.abort()
    await until(lambda: in_flight(proxy, "i-1", 0))
    await until(lambda: not keeps_an_answer(proxy))


@pytest.mark.parametrize("buffering", ["none", "request", "response"])
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_event_streams_come_as_they_are_sent(proxy: Proxy, serve: Serve, buffering: str, method: str) -> None:
    """Whatever the route says, where the visitor says that he takes one."""
    go_on = asyncio.Queue[bytes]()

    async def handler(message: Message, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        await read_body(reader, message.headers)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")
        while event := await go_on.get():
            writer.write(event)
            await writer.drain()
        return False

    await proxy.live(HOST, await serve(Server(handler)), settings=compiled(buffering=buffering))
    reader, writer = await proxy.connect()
    body = b"{}" if method == "POST" else None
    writer.write(head(HOST, method, "/events", body, {"Accept": "text/event-stream"}) + (body or b""))
    for number in range(3):
        go_on.put_nowait(b"data: %d\n\n" % number)
        async with asyncio.timeout(2):
            await reader.readuntil(b"data: %d\n\n" % number)
    go_on.put_nowait(b"")
    writer.close()


@pytest.mark.parametrize("buffering", ["none", "request", "response"])
async def test_websockets_pass(proxy: Proxy, serve: Serve, buffering: str) -> None:
    """Whatever the route says: each piece at once, and counted as a stream."""

    async def handler(_: Message, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        writer.write(b"HTTP/1.1 101 X\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
        for _ in range(3):
            writer.write(await reader.readexactly(4))
            await writer.drain()
        return False

    await proxy.live(HOST, await serve(Server(handler)), settings=compiled(buffering=buffering))
    reader, writer = await proxy.connect()
    writer.write(head(HOST, "GET", "/", None, {"Upgrade": "websocket"}).replace(b": close", b": Upgrade"))
    assert (await read_head(reader)).status == 101
    assert (await proxy.count("i-1")).streams == 1
    for _ in range(3):
        writer.write(b"ping")
        async with asyncio.timeout(2):
            assert await reader.readexactly(4) == b"ping"
    writer.close()


async def test_an_app_may_still_say_that_it_streams(proxy: Proxy, serve: Serve) -> None:
    """`X-Accel-Buffering: no`, as apps behind NGINX say it."""
    go_on = asyncio.Event()

    async def handler(_: Message, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        writer.write(b"HTTP/1.1 200 OK\r\nX-Accel-Buffering: no\r\nConnection: close\r\n\r\nfirst")
        await writer.drain()
        await go_on.wait()
        return False

    await proxy.live(HOST, await serve(Server(handler)), settings=compiled(buffering="response"))
    reader, writer = await proxy.connect()
    writer.write(head(HOST, "GET", "/", None, {}))
    async with asyncio.timeout(2):
        await reader.readuntil(b"first")
    go_on.set()
    writer.close()


async def test_a_reset_connection_is_tried_once_more_with_its_buffering(start_proxy: StartProxy, serve: Serve) -> None:
    """A GET on a pooled connection that the app closes without an answer."""
    proxy = await start_proxy(nginx_workers=1)
    await proxy.open()
    count = 0
    large = Large()

    async def handler(message: Message, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool | None:
        nonlocal count
        count += 1
        if count == 1:
            writer.write(answer(200, "first"))
            return None
        return False if count == 2 else await large.handle(message, reader, writer)

    server = await serve(Server(handler))
    await proxy.live(HOST, server, "i-1", settings=compiled(buffering="response"))
    assert (await proxy.request(HOST)).body == b"first"
    reader, writer = await proxy.connect()
    writer.write(head(HOST, "GET", "/", None, {}))
    found = await read_head(reader)
    async with asyncio.timeout(10):
        await large.freed.wait()
    assert await read_body(reader, found.headers) == large.body
    writer.close()
    assert (len(server.requests), server.connections) == (3, 2)
    await until(lambda: in_flight(proxy, "i-1", 0))


@pytest.mark.parametrize("buffering", [None, "none", "request", "response"])
async def test_targets_over_tls(proxy: Proxy, tmp_path: Path, serve: Serve, buffering: str | None) -> None:
    """An upload and an answer, byte for byte; a body of unknown length is passed on as it comes there, too."""
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=app.example"]
    subprocess.run([*make, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    seen, names = list[Message](), list[str]()
    context.sni_callback = lambda _, name, __: names.append(name)

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        message = await read_head(reader)
        message.body = await read_body(reader, message.headers)
        seen.append(message)
        writer.write(answer(200, message.body))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(handler, "127.0.0.1", 0, ssl=context)
    settings = compiled(buffering=buffering) if buffering else None
    async with server:
        port = server.sockets[0].getsockname()[1]
        values = {"address": "127.0.0.1", "port": port, "instance": "i-1", "tls": True, "server_name": "app.example"}
        await proxy.put(HOST, "live", **values, settings=settings)
        body = os.urandom(300_000)
        assert (await proxy.request(HOST, "POST", body=body)).body == body
        reader, writer = await proxy.connect()
        writer.write(chunked_head(HOST) + chunked(body))
        found = await read_head(reader)
        assert await read_body(reader, found.headers) == body
        writer.close()
        assert (await proxy.request(HOST)).status == 200
    assert names == ["app.example"] * 3
    assert ["content-length" in message.headers for message in seen[:2]] == [
        True,
        buffering in {"request", "response"},
    ]
    await until(lambda: in_flight(proxy, "i-1", 0))
    assert (await proxy.count("i-1")).total == 3


@pytest.mark.parametrize("buffering", ["none", "request", "response"])
async def test_withdrawals_lose_and_double_nothing(
    start_proxy: StartProxy, waker: Waker, serve: Serve, buffering: str
) -> None:
    """Whatever is buffered, with a stall between look-up and count: what was told to be drained gets no request."""
    proxy = await start_proxy(stall=0.01, wake_timeout=30, nginx_workers=2)
    await proxy.open(waker)
    settings = compiled(buffering=buffering)
    over, answers, drained = asyncio.Event(), list[tuple[int, str]](), list[tuple[Server, int]]()

    async def visit(number: int) -> None:
        at = 0
        while not over.is_set():
            at += 1
            body = b"%d:%d " % (number, at) + b"x" * 70_000
            for found in (await proxy.request(HOST, "POST", body=body), await proxy.request(HOST)):
                answers.append((found.status, found.state))

    await proxy.put(HOST, waker=waker.url, settings=settings)
    visits = [asyncio.create_task(visit(number)) for number in range(6)]
    for cycle in range(15):
        server, instance = await serve(), f"i-{cycle}"
        await proxy.live(HOST, server, instance, waker=waker.url, settings=settings)
        await until(lambda server=server: len(server.requests) > 20)
        await proxy.put(HOST, waker=waker.url, settings=settings)
        await until(lambda instance=instance: in_flight(proxy, instance, 0), timeout=10)
        drained.append((server, len(server.requests)))
    over.set()
    last = await serve()
    await proxy.live(HOST, last, "i-last", waker=waker.url, settings=settings)
    await asyncio.gather(*visits)
    assert [len(server.requests) for server, _ in drained] == [seen for _, seen in drained]
    assert set(answers) == {(200, "")}
    requests = [request for server in (last, *(server for server, _ in drained)) for request in server.requests]
    bodies = [request.body for request in requests if request.method == "POST"]
    assert len(bodies) == len(set(bodies)) == len(answers) // 2
    assert all(len(body) > 70_000 for body in bodies)
    assert proxy.errors() == []
