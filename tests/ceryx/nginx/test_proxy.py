"""What the proxy does with requests to live targets, and with hosts that have none: rule by rule, on a real NGINX."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import ssl
import subprocess
from pathlib import Path

import psutil
import pytest
from tests.ceryx.nginx.conftest import Serve, StartProxy
from tests.ceryx.nginx.world import (
    BROWSER,
    Handler,
    Message,
    Proxy,
    Server,
    Waker,
    answer,
    app,
    head,
    read_body,
    read_head,
    until,
)

pytestmark = pytest.mark.anyio

HOST = "blog--demo.localhost"


def mirror() -> Server:
    """An app that answers with the header lines that it was sent."""

    async def handler(message: Message, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        message.body = await read_body(reader, message.headers)
        writer.write(answer(200, json.dumps({"first": message.first, "lines": message.lines})))

    return Server(handler)


def fixed(raw: bytes, *, close: bool = False) -> Server:
    """An app that gives one raw answer."""

    async def handler(message: Message, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        await read_body(reader, message.headers)
        writer.write(raw)
        return not close

    return Server(handler)


async def seen(proxy: Proxy, host: str = HOST, path: str = "/", **headers: str) -> dict[str, list[str]]:
    """Return the headers that reached the app, each with all its values."""
    found: dict[str, list[str]] = {}
    for line in (await proxy.request(host, path=path, **headers)).json()["lines"]:
        name, _, value = line.partition(": ")
        found.setdefault(name.lower(), []).append(value)
    return found


# --- separation


@pytest.mark.parametrize(
    "header",
    [
        "X-Accel-Redirect: /secret",
        "X-Accel-Redirect: @waker_gone",
        "X-Accel-Redirect: @fresh",
        "X-Accel-Redirect: /.hemera/events",
        "X-Accel-Redirect: /control/apply",
        "X-Accel-Limit-Rate: 1",
        "X-Accel-Charset: utf-7",
        "X-Accel-Expires: 3600",
    ],
)
async def test_an_app_gets_nowhere_with_accel_headers(proxy: Proxy, waker: Waker, serve: Serve, header: str) -> None:
    body = b"the app's own" * 100
    server = await serve(
        fixed(b"HTTP/1.1 200 OK\r\n%b\r\nContent-Length: %d\r\n\r\n" % (header.encode(), len(body)) + body)
    )
    await proxy.live(HOST, server)
    async with asyncio.timeout(5):
        found = await proxy.request(HOST)
    assert (found.status, found.body) == (200, body)
    assert len(server.requests) == 1
    assert waker.requests == []


async def test_the_control_socket_is_closed_to_others(proxy: Proxy) -> None:
    socket = Path(proxy.engine.control_socket)
    assert socket.is_socket()
    folder = socket.parent
    assert folder.stat().st_mode & 0o007 == 0, "others may enter the directory of the control socket"


async def test_control_paths_mean_nothing_on_the_public_address(proxy: Proxy, serve: Serve) -> None:
    server = await serve(mirror())
    await proxy.live(HOST, server)
    for path in ("/hello", "/apply", "/counts", "/read"):
        found = await proxy.request(HOST, "POST", path, b"{}")
        assert found.json()["first"] == f"POST {path} HTTP/1.1", "the app's own path did not reach it"


@pytest.mark.parametrize(
    "host", ["a b", "x;return 200", "{{ x }}", '"; root /; #', "a" * 300, "..", "-", "%0d%0aX", "é"]
)
async def test_odd_hosts_harm_nothing(proxy: Proxy, serve: Serve, host: str) -> None:
    await proxy.live(HOST, await serve())
    assert (await proxy.request(host)).status in {400, 503}
    assert (await proxy.request(HOST)).body == b"app"


@pytest.mark.parametrize("spelling", [HOST.upper(), f"{HOST}.", f"{HOST}:8080", f"{HOST.title()}.:80"])
async def test_hosts_are_found_however_they_are_spelt(proxy: Proxy, serve: Serve, spelling: str) -> None:
    await proxy.live(HOST, await serve(mirror()))
    assert (await seen(proxy, spelling))["host"] == [spelling], "the app sees the host as the visitor wrote it"


# --- headers

FORGED = {
    "X_Forwarded_For": "1.2.3.4",
    "X_Forwarded_Proto": "https",
    "X_Forwarded_Host": "evil.example",
    "X_Forwarded_Port": "1",
    "X_Forwarded_Prefix": "/evil",
    "X_Real_IP": "1.2.3.4",
    "Forwarded": "for=1.2.3.4;proto=https",
    "Proxy": "http://evil.example",
}


async def test_clients_cannot_forge_where_they_come_from(proxy: Proxy, serve: Serve) -> None:
    await proxy.live(HOST, await serve(mirror()))
    headers = await seen(proxy, f"{HOST}:{proxy.port}", **FORGED)
    assert headers["x-forwarded-for"] == ["127.0.0.1"]
    assert headers["x-real-ip"] == ["127.0.0.1"]
    assert headers["x-forwarded-proto"] == ["http"]
    assert headers["x-forwarded-host"] == [f"{HOST}:{proxy.port}"]
    assert headers["x-forwarded-port"] == [str(proxy.port)]
    assert headers["forwarded"] == ["for=127.0.0.1;proto=http"]
    assert "x-forwarded-prefix" not in headers
    assert "proxy" not in headers


async def test_an_absolute_target_names_the_host(proxy: Proxy, serve: Serve) -> None:
    """The route was chosen by it; a header that says otherwise reaches nobody."""
    await proxy.live(HOST, await serve(mirror()))
    reader, writer = await proxy.connect()
    writer.write(f"GET http://{HOST}:81/reset HTTP/1.1\r\nHost: evil.example\r\n\r\n".encode())
    found = await read_head(reader)
    told = json.loads(await read_body(reader, found.headers))
    writer.close()
    assert told["first"] == "GET /reset HTTP/1.1"
    hosts = [line for line in told["lines"] if line.lower().startswith(("host:", "x-forwarded-host:"))]
    assert sorted(hosts) == [f"Host: {HOST}:81", f"X-Forwarded-Host: {HOST}:81"]


async def test_a_trusted_proxy_is_believed(start_proxy: StartProxy, serve: Serve) -> None:
    proxy = await start_proxy(trusted_proxies=["127.0.0.0/8"])
    await proxy.open()
    await proxy.live(HOST, await serve(mirror()))
    headers = await seen(proxy, **FORGED)
    assert headers["x-forwarded-for"] == ["1.2.3.4, 127.0.0.1"]
    assert headers["x-real-ip"] == ["1.2.3.4"]
    assert headers["x-forwarded-proto"] == ["https"]
    assert headers["x-forwarded-host"] == ["evil.example"]
    assert headers["x-forwarded-port"] == ["1"]
    assert headers["forwarded"] == ["for=1.2.3.4;proto=https, for=127.0.0.1"]
    plain = await seen(proxy)
    assert plain["x-forwarded-for"] == ["127.0.0.1"]
    assert plain["x-forwarded-host"] == [HOST]
    assert plain["x-forwarded-proto"] == ["http"]
    assert "proxy" not in headers


async def test_another_range_is_not_believed(start_proxy: StartProxy, serve: Serve) -> None:
    proxy = await start_proxy(trusted_proxies=["10.0.0.0/8", "fd00::/8"])
    await proxy.open()
    await proxy.live(HOST, await serve(mirror()))
    headers = await seen(proxy, **FORGED)
    assert headers["x-forwarded-for"] == ["127.0.0.1"]
    assert headers["x-forwarded-proto"] == ["http"]
    assert headers["forwarded"] == ["for=127.0.0.1;proto=http"]


@pytest.mark.parametrize("value", ["h2c", "foo/2", "websocket, h2c"])
async def test_only_websockets_are_upgraded(proxy: Proxy, serve: Serve, value: str) -> None:
    await proxy.live(HOST, await serve(mirror()))
    headers = await seen(proxy, Upgrade=value, HTTP2_Settings="AAMAAABkAAQAoAAAAAIAAAAA")
    assert "upgrade" not in headers
    assert "upgrade" not in ",".join(headers.get("connection", [])).lower()


async def test_large_headers_pass(proxy: Proxy, serve: Serve) -> None:
    await proxy.live(HOST, await serve(mirror()))
    cookie = "c=" + "x" * 30_000
    assert (await seen(proxy, Cookie=cookie))["cookie"] == [cookie]


async def test_paths_are_passed_as_they_were_sent(proxy: Proxy, serve: Serve) -> None:
    await proxy.live(HOST, await serve(mirror()))
    path = "/a//b/../c%2Fd/%e2%82%ac?x=%0d%0a&y=1;2"
    assert (await proxy.request(HOST, path=path)).json()["first"] == f"GET {path} HTTP/1.1"


# --- streams both ways


async def test_a_websocket_is_passed_both_ways(proxy: Proxy, serve: Serve) -> None:
    async def handler(message: Message, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        assert message.headers["upgrade"] == "websocket"
        assert message.headers["connection"] == "upgrade"
        writer.write(b"HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n")
        while line := await reader.readline():
            writer.write(b"echo " + line)
        return False

    await proxy.live(HOST, await serve(Server(handler)), instance="i-1")
    reader, writer = await proxy.connect()
    writer.write(f"GET /ws HTTP/1.1\r\nHost: {HOST}\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\n\r\n".encode())
    assert (await read_head(reader)).status == 101
    # A route change touches no connection in flight.
    await proxy.live(HOST, await serve(app("next")), instance="i-2")
    for number in range(3):
        writer.write(b"%d\n" % number)
        assert await reader.readline() == b"echo %d\n" % number
    assert (await proxy.count("i-1")).in_flight == 1
    assert (await proxy.request(HOST)).body == b"next"
    writer.close()

    async def is_given_back() -> bool:
        return (await proxy.count("i-1")).in_flight == 0

    await until(is_given_back)


@pytest.mark.parametrize("accept", ["text/event-stream", "*/*"])
async def test_answers_are_passed_as_they_come(proxy: Proxy, serve: Serve, accept: str) -> None:
    go_on = asyncio.Queue[bytes]()

    async def handler(message: Message, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")
        while event := await go_on.get():
            writer.write(event)
            await writer.drain()
        return False

    await proxy.live(HOST, await serve(Server(handler)))
    reader, writer = await proxy.connect()
    writer.write(head(HOST, "GET", "/events", None, {"Accept": accept}).replace(b"Connection: close\r\n", b""))
    for number in range(4):
        go_on.put_nowait(b"data: %d\n\n" % number)
        async with asyncio.timeout(2):
            await reader.readuntil(b"data: %d\n\n" % number)
    go_on.put_nowait(b"")
    writer.close()


async def test_a_body_of_unknown_length_is_passed_as_it_comes(proxy: Proxy, serve: Serve) -> None:
    async def handler(message: Message, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
        while size := int(await reader.readuntil(b"\n"), 16):
            writer.write(b"got " + await reader.readexactly(size))
            await reader.readexactly(2)
            await writer.drain()
        return False

    await proxy.live(HOST, await serve(Server(handler)))
    reader, writer = await proxy.connect()
    writer.write(f"POST / HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
    for _ in range(3):
        writer.write(b"4\r\npart\r\n")
        async with asyncio.timeout(2):
            await reader.readuntil(b"got part")
    writer.write(b"0\r\n\r\n")
    await reader.read()
    writer.close()


@pytest.mark.parametrize("chunked", [False, True])
async def test_large_bodies_arrive_byte_for_byte(proxy: Proxy, serve: Serve, chunked: bool) -> None:
    async def handler(message: Message, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        body = await read_body(reader, message.headers)
        writer.write(answer(200, hashlib.sha256(body).hexdigest()))

    server = await serve(Server(handler))
    await proxy.live(HOST, server)
    body = os.urandom(30 << 20)
    reader, writer = await proxy.connect()
    if chunked:
        writer.write(f"PUT / HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        for start in range(0, len(body), 1 << 20):
            part = body[start : start + (1 << 20)]
            writer.write(b"%x\r\n%b\r\n" % (len(part), part))
            await writer.drain()
        writer.write(b"0\r\n\r\n")
    else:
        writer.write(head(HOST, "PUT", "/", body, {}) + body)
    found = await read_head(reader)
    assert (await read_body(reader, found.headers)).decode() == hashlib.sha256(body).hexdigest()
    assert len(server.requests) == 1
    writer.close()


async def test_a_large_answer_arrives_byte_for_byte_at_a_slow_client(proxy: Proxy, serve: Serve) -> None:
    body = os.urandom(8 << 20)
    await proxy.live(HOST, await serve(fixed(answer(200, body))))
    reader, writer = await proxy.connect()
    writer.write(head(HOST, "GET", "/", None, {}))
    found = await read_head(reader)
    got = hashlib.sha256()
    for _ in range(0, len(body), 1 << 16):
        got.update(await reader.readexactly(1 << 16))
        await asyncio.sleep(0)
    assert found.status == 200
    assert got.digest() == hashlib.sha256(body).digest()
    writer.close()


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "DELETE", "PATCH", "PROPFIND"])
async def test_every_method_passes(proxy: Proxy, serve: Serve, method: str) -> None:
    server = await serve()
    await proxy.live(HOST, server)
    assert (await proxy.request(HOST, method)).status == 200
    assert [request.method for request in server.requests] == [method]


async def test_grpc_is_refused_clearly(proxy: Proxy, serve: Serve) -> None:
    server = await serve()
    await proxy.live(HOST, server)
    found = await proxy.request(HOST, "POST", "/x.Y/Z", b"\0\0\0\0\0", Content_Type="application/grpc")
    assert (found.status, found.state) == (501, "grpc")
    assert server.requests == []


# --- kinds of routes


async def test_redirects_keep_path_and_query(proxy: Proxy) -> None:
    await proxy.put(HOST, "redirect", location="https://new.example")
    found = await proxy.request(HOST, path="/a%20b/?x=1&y=%2F")
    assert found.status == 301
    assert found.headers["location"] == "https://new.example/a%20b/?x=1&y=%2F"


async def test_https_is_enforced(proxy: Proxy, serve: Serve) -> None:
    server = await serve()
    await proxy.live(HOST, server, enforce_https=True)
    for scheme in ("http", "https"):
        found = await proxy.request(HOST, path="/a?b=c", X_Forwarded_Proto=scheme)
        assert (found.status, found.headers["location"]) == (301, f"https://{HOST}/a?b=c")
    assert server.requests == []


async def test_https_behind_a_trusted_proxy_is_no_redirect_loop(start_proxy: StartProxy, serve: Serve) -> None:
    proxy = await start_proxy(trusted_proxies=["127.0.0.1/32"])
    await proxy.open()
    await proxy.live(HOST, await serve(), enforce_https=True)
    assert (await proxy.request(HOST, X_Forwarded_Proto="https")).body == b"app"
    assert (await proxy.request(HOST, X_Forwarded_Proto="http")).status == 301
    assert (await proxy.request(HOST, X_Forwarded_Proto="http, https")).status == 301


async def test_the_wildcard_is_for_hosts_without_a_route(proxy: Proxy, serve: Serve) -> None:
    await proxy.live("$wildcard", await serve(app("fallback")), instance="w")
    await proxy.live(HOST, await serve(app("own")), instance="i")
    assert (await proxy.request("anything.example")).body == b"fallback"
    assert (await proxy.request(HOST)).body == b"own"
    await proxy.put(HOST, "deleted")
    assert (await proxy.request(HOST)).body == b"fallback"
    await proxy.put("$wildcard", "deleted")
    assert (await proxy.request(HOST)).state == "unknown-host"


@pytest.mark.parametrize(("headers", "kind"), [(BROWSER, "text/html"), ({}, "application/problem+json")])
async def test_an_unknown_host(proxy: Proxy, headers: dict[str, str], kind: str) -> None:
    found = await proxy.request("nobody.example", **{name.replace("-", "_"): value for name, value in headers.items()})
    assert (found.status, found.state) == (503, "unknown-host")
    assert found.headers["content-type"].startswith(kind)
    assert found.headers["cache-control"] == "no-store"
    assert found.headers["access-control-allow-origin"] == "*"
    assert "lair-state" in found.headers["access-control-expose-headers"].lower()
    assert b"nobody.example" in found.body or kind == "text/html"


async def test_a_target_whose_name_has_no_address(proxy: Proxy, waker: Waker) -> None:
    await proxy.put(HOST, "unresolved", problem="backend.internal: no address found.")
    found = await proxy.request(HOST)
    assert (found.status, found.state) == (503, "unresolved")
    assert found.json()["detail"] == "backend.internal: no address found."
    assert waker.wakes == []


async def test_a_target_on_the_other_loopback(proxy: Proxy, serve: Serve) -> None:
    async def handler(message: Message, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer(200, "six"))

    await proxy.live(HOST, await serve(Server(handler, host="::1")))
    assert (await proxy.request(HOST)).body == b"six"


async def test_an_https_target(proxy: Proxy, tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "1",
        "-subj",
        "/CN=app.example",
        "-keyout",
    ]
    subprocess.run([*command, key, "-out", certificate], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    names: list[str] = []

    def remember(_: ssl.SSLObject, name: str, __: ssl.SSLContext) -> None:
        names.append(name)

    context.sni_callback = remember

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        writer.write(answer(200, "over TLS"))
        writer.close()

    server = await asyncio.start_server(handler, "127.0.0.1", 0, ssl=context)
    async with server:
        port = server.sockets[0].getsockname()[1]
        await proxy.put(HOST, "live", address="127.0.0.1", port=port, instance="i", tls=True, server_name="app.example")
        assert (await proxy.request(HOST)).body == b"over TLS"
    assert names == ["app.example"]


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("/.hemera/wake", "/waker/visitor/wake"),
        ("/.hemera/a%20b/%e2%82%ac?x=%2F&y", "/waker/visitor/a%20b/%E2%82%AC?x=%2F&y"),
        ("/app/../.hemera/retry", "/waker/visitor/retry"),
        ("/.hemera/../.hemera/../.hemera/x", "/waker/visitor/x"),
        ("/.hemera/..%2f.hemera/x", "/waker/visitor/x"),
        ("/.hemera/", "/waker/visitor/"),
        ("/.hemera/../waker/wake", None),
        ("//.hemera/x", None),
    ],
)
async def test_visitors_reach_their_side_of_the_waker_only(
    proxy: Proxy, waker: Waker, serve: Serve, path: str, asked: str | None
) -> None:
    """Whatever is written in the path; the rest is the app's own."""
    server = await serve()
    await proxy.live(HOST, server, waker=waker.url)
    answer = await proxy.request(HOST, "POST", path, b"{}")
    assert answer.status == 200
    assert [request.path for request in waker.requests] == ([] if asked is None else [asked])
    assert [request.path for request in server.requests] == ([path] if asked is None else [])


# --- pools


async def test_connections_are_pooled_and_die_after_a_second(proxy: Proxy, serve: Serve) -> None:
    server = await serve()
    await proxy.live(HOST, server)
    for _ in range(50):
        assert (await proxy.request(HOST)).status == 200
    assert server.connections <= proxy.settings.nginx_workers
    await until(lambda: not server._writers, timeout=4)


async def test_a_route_change_never_reloads_nginx(proxy: Proxy, serve: Serve) -> None:
    def processes() -> set[tuple[int, float]]:
        master = int((proxy.directory / "nginx.pid").read_text())
        return {(each.pid, each.create_time()) for each in psutil.Process(master).children()}

    before = processes()
    server = await serve()
    for number in range(200):
        await proxy.live(f"host-{number}.example", server, instance=f"i-{number}")
    assert (await proxy.request("host-199.example")).body == b"app"
    assert processes() == before
    assert len(before) >= proxy.settings.nginx_workers


@pytest.mark.parametrize(
    ("method", "status", "arrived"),
    [("GET", 200, 2), ("HEAD", 200, 2), ("OPTIONS", 200, 2), ("POST", 200, 1), ("PUT", 200, 1), ("DELETE", 200, 1)],
)
async def test_a_reused_connection_that_breaks(
    start_proxy: StartProxy, waker: Waker, serve: Serve, method: str, status: int, arrived: int
) -> None:
    """What changes nothing is tried once more, on a fresh connection; everything else never meets a reused one."""
    used: set[asyncio.StreamWriter] = set()

    async def handler(message: Message, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        await read_body(reader, message.headers)
        if writer in used:
            return False
        used.add(writer)
        writer.write(answer(200, "" if method == "HEAD" else "app"))
        return True

    proxy = await start_proxy(nginx_workers=1)
    await proxy.open(waker)
    server = await serve(Server(handler))
    await proxy.live(HOST, server, waker=waker.url)
    assert (await proxy.request(HOST)).status == 200
    found = await proxy.request(HOST, method, body=b"x" if method in {"POST", "PUT"} else None)
    assert found.status == status
    assert [request.method for request in server.requests[1:]] == [method] * arrived
    assert waker.wakes == []
    await proxy.drained("i-1")
    assert (await proxy.count("i-1")).total == 1 + arrived


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
async def test_what_changes_something_is_sent_once(proxy: Proxy, waker: Waker, serve: Serve, method: str) -> None:
    """An app that breaks off before its answer has seen it once, and nothing is started because of that."""

    async def handler(message: Message, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        await read_body(reader, message.headers)
        return False

    server = await serve(Server(handler))
    await proxy.live(HOST, server, waker=waker.url)
    found = await proxy.request(HOST, method, body=b"x")
    assert (found.status, found.state) == (502, "broken")
    assert [request.method for request in server.requests] == [method]
    assert waker.wakes == []


async def test_one_retry_and_no_more(start_proxy: StartProxy, serve: Serve) -> None:
    """An app that breaks off on fresh connections too gets a GET twice at most."""
    answered = 0

    async def handler(message: Message, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        nonlocal answered
        answered += 1
        if answered > 1:
            return False
        writer.write(answer(200, "app"))
        return True

    proxy = await start_proxy(nginx_workers=1)
    await proxy.open()
    server = await serve(Server(handler))
    await proxy.live(HOST, server)
    assert (await proxy.request(HOST)).status == 200
    found = await proxy.request(HOST)
    assert (found.status, found.state) == (502, "broken")
    assert len(server.requests) == 3


# --- what the app does wrong


async def garbage(_: Message, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    writer.write(b"this is not HTTP\r\n\r\n")
    return False


async def silence(_: Message, reader: asyncio.StreamReader, __: asyncio.StreamWriter) -> bool:
    await reader.read()
    return False


async def test_an_answer_that_is_not_http(proxy: Proxy, waker: Waker, serve: Serve) -> None:
    await proxy.live(HOST, await serve(Server(garbage)))
    reader, writer = await proxy.connect()
    writer.write(head(HOST, "GET", "/", None, {}))
    await reader.read()
    writer.close()
    assert waker.wakes == [], "a bad answer starts nothing"
    await proxy.drained("i-1")


@pytest.mark.parametrize("handler", [silence])
async def test_a_slow_app_gets_one_request_and_504(
    start_proxy: StartProxy, waker: Waker, serve: Serve, handler: Handler
) -> None:
    proxy = await start_proxy(read_timeout=0.5, stream_timeout=0.5)
    await proxy.open(waker)
    server = await serve(Server(handler))
    await proxy.live(HOST, server)
    for method in ("GET", "POST"):
        found = await proxy.request(HOST, method, body=b"x")
        assert (found.status, found.state) == (504, "timeout")
    assert len(server.requests) == 2
    assert waker.wakes == []


async def test_only_what_is_a_stream_counts_as_one(proxy: Proxy, serve: Serve) -> None:
    """What asks for one is waited for when its server is stopped, until its answer has begun: a handshake too."""
    begin, end = asyncio.Event(), asyncio.Event()
    head = {
        "websocket": b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        "/events": b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n",
        "/json": b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n",
    }

    async def handler(message: Message, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        await read_body(reader, message.headers)
        await begin.wait()
        writer.write(head["websocket" if "upgrade" in message.headers else message.path])
        await end.wait()
        return False

    server = await serve(Server(handler))
    await proxy.live(HOST, server)
    accept = "application/json, text/event-stream"
    asked = [
        asyncio.create_task(proxy.request(HOST, "POST", "/json", body=b"{}", Accept=accept)),
        asyncio.create_task(proxy.request(HOST, path="/json", Accept=accept)),
        asyncio.create_task(proxy.request(HOST, path="/events", Accept="text/event-stream")),
        asyncio.create_task(proxy.request(HOST, path="/", Upgrade="websocket", Connection="upgrade")),
    ]
    await until(lambda: len(server.requests) == 4)
    counts = await proxy.count("i-1")
    assert (counts.in_flight, counts.streams) == (4, 0)
    begin.set()

    async def have_begun() -> bool:
        return (await proxy.count("i-1")).streams == 2

    await until(have_begun)
    assert (await proxy.count("i-1")).in_flight == 4
    end.set()

    async def are_over() -> bool:
        counts = await proxy.count("i-1")
        return (counts.in_flight, counts.streams) == (0, 0)

    await until(are_over)
    await asyncio.gather(*asked, return_exceptions=True)


async def test_the_visitors_side_of_the_waker_takes_no_large_bodies(proxy: Proxy, waker: Waker) -> None:
    await proxy.put(HOST, waker=waker.url)
    assert (await proxy.request(HOST, "POST", "/.hemera/x", b"x" * 60_000)).status == 200
    assert (await proxy.request(HOST, "POST", "/.hemera/x", b"x" * 70_000)).status == 413


# --- the access log


async def test_every_request_has_a_line_in_json(proxy: Proxy, serve: Serve) -> None:
    server = await serve()
    await proxy.live(HOST, server)
    await proxy.request(HOST, path='/x"\\%0a?token=secret', User_Agent='a "quoted" \t agent')
    await proxy.request("nobody.example")
    log = Path(proxy.settings.data_dir) / "logs" / "access.log"
    await until(lambda: log.read_text().count("\n") >= 2)
    # Each worker writes its lines when it likes.
    lines = {line["host"]: line for line in map(json.loads, log.read_text().splitlines())}
    first, second = lines[HOST], lines["nobody.example"]
    assert first["status"] == "200"
    assert first["path"] == '/x"\\\n'
    assert first["agent"] == 'a "quoted" \t agent'
    assert first["target"] == f"127.0.0.1:{server.port}"
    assert second["state"] == "unknown-host"
    assert "secret" not in log.read_text(), "queries carry secrets"


@pytest.mark.parametrize(
    ("path", "agent", "shown"),
    [
        ("/%c3%bcber/%e2%82%ac", "J\u00fcrgen/1.0", ("/\u00fcber/\u20ac", "J\u00fcrgen/1.0")),
        ("/%ff%fe", "x", ("(not UTF-8)", "x")),
        ("/a%c3", "x", ("(not UTF-8)", "x")),
        ("/%ed%a0%80", "x", ("(not UTF-8)", "x")),  # half of a surrogate pair
        ("/%f0%9f%98%80", "x", ("/\U0001f600", "x")),
    ],
)
async def test_lines_of_the_log_are_utf8(
    proxy: Proxy, serve: Serve, path: str, agent: str, shown: tuple[str, str]
) -> None:
    await proxy.live(HOST, await serve())
    await proxy.request(HOST, path=path, User_Agent=agent)
    log = Path(proxy.settings.data_dir) / "logs" / "access.log"
    await until(lambda: log.read_bytes().count(b"\n") >= 1)
    line = json.loads(log.read_text(encoding="utf-8"))
    assert (line["path"], line["agent"]) == shown
