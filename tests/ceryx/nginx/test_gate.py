"""What happens to a request whose host has no live target."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import socket
import time
from typing import Any

import pytest
from tests.ceryx.nginx.conftest import Serve, StartProxy
from tests.ceryx.nginx.world import (
    BROWSER,
    Message,
    Proxy,
    Server,
    Waker,
    answer,
    app,
    free_port,
    head,
    read_body,
    read_head,
    until,
)

from sourcelair.ceryx.nginx.control import NginxControl

pytestmark = pytest.mark.anyio
HOST = "blog--demo.localhost"


async def test_a_request_is_held_and_goes_on_the_moment_the_table_shows_a_target(
    proxy: Proxy, waker: Waker, serve: Serve
) -> None:
    """A held request is answered by the instance, within milliseconds of the publication."""
    server = await serve()
    await proxy.put(HOST, waker=waker.url)
    held = asyncio.create_task(proxy.request(HOST))
    await until(lambda: len(waker.wakes) == 1)
    await proxy.live(HOST, server, waker=waker.url)
    since = asyncio.get_running_loop().time()
    found = await held
    assert (found.status, found.body) == (200, b"app")
    assert asyncio.get_running_loop().time() - since < 0.1
    came = waker.wakes[0].pop("since")
    assert 0 <= time.time() - came < 5
    told = {"source": HOST, "reason": "asleep", "method": "GET", "path": "/", "node": "local", "address": "127.0.0.1"}
    assert waker.wakes == [told]
    assert waker.requests[0].headers["authorization"] == "Bearer secret"


async def test_a_request_is_held_while_the_name_of_its_target_is_looked_up(
    proxy: Proxy, waker: Waker, serve: Serve
) -> None:
    """A server that just woke on a host name: who was held goes on, who comes now too, and nobody wakes it."""
    server = await serve()
    await proxy.put(HOST, waker=waker.url)
    held = [asyncio.create_task(proxy.request(HOST))]
    await until(lambda: len(waker.wakes) == 1)
    await proxy.put(HOST, "unresolved", port=server.port, instance="i-1", waker=waker.url)
    held.append(asyncio.create_task(proxy.request(HOST, "POST", body=b"x")))
    await asyncio.wait(held, timeout=0.2)
    assert not any(task.done() for task in held)
    await proxy.live(HOST, server, waker=waker.url)
    assert {(found.status, found.body) for found in await asyncio.gather(*held)} == {(200, b"app")}
    assert len(waker.wakes) == 1


async def test_a_look_up_that_fails_is_told_to_those_who_waited_for_it(proxy: Proxy, waker: Waker) -> None:
    await proxy.put(HOST, "unresolved", port=80, instance="i-1", waker=waker.url)
    held = asyncio.create_task(proxy.request(HOST))
    await asyncio.wait([held], timeout=0.1)
    assert not held.done()
    await proxy.put(HOST, "unresolved", port=80, instance="i-1", waker=waker.url, problem="There is no such name.")
    found = await held
    assert (found.status, found.state) == (503, "unresolved")
    assert found.json()["detail"] == "There is no such name."
    assert waker.wakes == []


async def test_the_token_is_shown_to_the_nodes_own_waker_only(proxy: Proxy, waker: Waker, serve: Serve) -> None:
    """Another waker, which any route may name, is not told this node's token."""
    other = Waker()
    await serve(other)
    await proxy.put(HOST, waker=other.url)
    held = asyncio.create_task(proxy.request(HOST))
    await until(lambda: len(other.wakes) == 1)
    held.cancel()
    assert "authorization" not in other.requests[0].headers


async def test_a_thousand_held_requests_make_one_wake_and_no_error_at_a_backlog_of_five(
    start_proxy: StartProxy, waker: Waker, serve: Serve
) -> None:
    """All are let go through the window, so that a small listen backlog does not overflow."""
    proxy = await start_proxy(wake_timeout=30)
    await proxy.open(waker)
    server = app()
    server.backlog = 5
    await serve(server)
    await proxy.put(HOST, waker=waker.url)
    held = [asyncio.create_task(proxy.request(HOST, path=f"/{number}")) for number in range(1000)]

    await until(lambda: len(waker.wakes) == 1)
    await asyncio.sleep(0.5)  # so that (nearly) all of them wait; those that come later go through the window too
    await proxy.live(HOST, server, waker=waker.url)
    found = await asyncio.gather(*held)
    assert {message.status for message in found} == {200}
    assert len(server.requests) == 1000
    assert len(waker.wakes) == 1
    assert proxy.errors() == []


async def test_a_held_body_arrives_byte_for_byte_and_once(proxy: Proxy, waker: Waker, serve: Serve) -> None:
    """20 MB wait in the client, not in the proxy, and then pass."""
    body = os.urandom(20 << 20)
    server = await serve()
    await proxy.put(HOST, waker=waker.url)
    held = asyncio.create_task(proxy.request(HOST, "POST", "/upload", body))
    await until(lambda: len(waker.wakes) == 1)
    await proxy.live(HOST, server, waker=waker.url)
    assert (await held).status == 200
    assert [hashlib.sha256(message.body).digest() for message in server.requests] == [hashlib.sha256(body).digest()]


async def test_expect_continue_waits_until_the_server_is_ready(proxy: Proxy, waker: Waker, serve: Serve) -> None:
    """The body is not asked for before there is someone to take it."""
    server = await serve()
    await proxy.put(HOST, waker=waker.url)
    reader, writer = await proxy.connect()
    writer.write(head(HOST, "POST", "/", b"12345", {"Expect": "100-continue"}))
    first = asyncio.create_task(read_head(reader))
    await until(lambda: len(waker.wakes) == 1)
    assert not first.done()
    await proxy.live(HOST, server, waker=waker.url)
    assert (await first).status == 100
    writer.write(b"12345")
    assert (await read_head(reader)).status == 200
    assert server.requests[0].body == b"12345"
    writer.close()


async def test_a_navigation_gets_the_wakers_page_after_patience(proxy: Proxy, waker: Waker) -> None:
    """A browser sees the page; it is not cached, and scripts may read the state."""
    await proxy.put(HOST, waker=waker.url)
    found = await proxy.request(HOST, path="/a?b=c&d", **BROWSER)
    assert found.status == 503
    assert found.body == f"PAGE /waker/page?source={HOST}&path=%2Fa%3Fb%3Dc%26d".encode()
    assert found.headers["cache-control"] == "no-store"
    assert found.headers["retry-after"] == "1"
    assert found.state == "starting"
    assert found.headers["access-control-allow-origin"] == "*"
    assert "Lair-State" in found.headers["access-control-expose-headers"]
    assert "x-frame-options" not in found.headers


async def test_a_navigation_gets_the_built_in_page_when_the_waker_is_gone(proxy: Proxy, waker: Waker) -> None:
    """The page refreshes itself."""
    await proxy.put(HOST, waker=waker.url)
    await waker.stop()
    found = await proxy.request(HOST, **BROWSER)
    assert found.status == 503
    assert b'http-equiv="refresh"' in found.body
    assert found.state == "waker-unreachable"
    found = await proxy.request(HOST)
    assert (found.status, found.state, found.json()["state"]) == (504, "waker-unreachable", "waker-unreachable")


async def test_everything_else_is_held_until_the_deadline(proxy: Proxy, waker: Waker) -> None:
    """An asset or an API call never gets a page; in the end it gets 504 as problem+json."""
    await proxy.put(HOST, waker=waker.url)
    found = await proxy.request(HOST, Accept="text/html", Sec_Fetch_Mode="cors")
    assert found.status == 504
    assert found.headers["content-type"] == "application/problem+json"
    assert found.json()["status"] == 504
    assert found.state == "starting"


async def test_held_requests_ask_again_while_the_waker_is_gone(
    start_proxy: StartProxy, waker: Waker, serve: Serve
) -> None:
    """A waker that comes back is asked, and nothing was lost meanwhile."""
    proxy = await start_proxy(wake_timeout=20)
    await proxy.open(waker)
    port = waker.port
    await waker.stop()
    await proxy.put(HOST, waker=f"http://127.0.0.1:{port}/waker")
    held = asyncio.create_task(proxy.request(HOST))
    await asyncio.sleep(0.3)
    await waker.start(port)
    await until(lambda: len(waker.wakes) >= 1)
    await proxy.live(HOST, await serve())
    assert (await held).status == 200


async def test_a_failed_attempt_ends_those_who_waited_for_it_and_no_later_one(
    start_proxy: StartProxy, waker: Waker, serve: Serve
) -> None:
    """The waker's own words are passed on; whoever comes afterwards begins a new attempt."""
    proxy = await start_proxy(wake_timeout=20, patience=0.1)
    await proxy.open(waker)
    failing = asyncio.Event()

    async def fail(_: dict[str, Any]) -> bytes:
        await failing.wait()
        problem = '{"detail":"it exited with code 3"}'
        return answer(503, problem, Content_Type="application/problem+json", Retry_After="7", Lair_State="failed")

    waker.on_wake = fail
    await proxy.put(HOST, waker=waker.url)
    first = [asyncio.create_task(proxy.request(HOST)) for _ in range(5)]
    await until(lambda: len(waker.wakes) == 1)
    await asyncio.sleep(0.1)
    failing.set()
    found = await asyncio.gather(*first)
    assert {message.status for message in found} == {503}
    assert {message.json()["detail"] for message in found} == {"it exited with code 3"}
    assert {message.headers["retry-after"] for message in found} == {"7"}
    assert {message.state for message in found} == {"failed"}
    waker.on_wake = waker.still_starting
    later = asyncio.create_task(proxy.request(HOST))
    await until(lambda: len(waker.wakes) == 2)
    await proxy.live(HOST, await serve())
    assert (await later).status == 200


@pytest.mark.parametrize("claimed", [40_000, 100], ids=["more than is kept", "cut off"])
async def test_what_is_no_whole_answer_of_the_waker_is_not_passed_on(proxy: Proxy, waker: Waker, claimed: int) -> None:
    """The visitor gets our own words, which a program can read."""

    async def fail(_: dict[str, Any]) -> bytes:
        body = json.dumps({"detail": "x" * (claimed - 14 if claimed > 1000 else 20)})
        head = f"HTTP/1.1 503 X\r\nContent-Type: application/problem+json\r\nContent-Length: {claimed}\r\n\r\n"
        return (head + body).encode()

    waker.on_wake = fail
    await proxy.put(HOST, waker=waker.url)
    found = await proxy.request(HOST)
    assert (found.status, found.state, found.json()["state"]) == (503, "failed", "failed")


@pytest.mark.parametrize(("status", "state"), [(403, "asleep"), (404, "unknown-host"), (503, "failed")])
async def test_final_answers_of_the_waker(proxy: Proxy, waker: Waker, status: int, state: str) -> None:
    """403, 404 and 503 end the wait: with the waker's page for a person, with a problem for a program."""

    async def final(_: dict[str, Any]) -> bytes:
        problem = {"title": "Its own", "status": status, "detail": "no"}
        return answer(status, json.dumps(problem), Content_Type="application/json")

    waker.on_wake = final
    await proxy.put(HOST, waker=waker.url)
    found = await proxy.request(HOST)
    assert found.json()["status"] == 503
    assert found.json()["title"] == ("Its own" if status == 503 else "Service Unavailable")
    assert (found.status, found.state, found.json()["detail"]) == (503, state, "no")
    assert (await proxy.request(HOST, **BROWSER)).body.startswith(b"PAGE ")


async def test_still_starting_means_waiting_on(proxy: Proxy, waker: Waker, serve: Serve) -> None:
    """A 202 ends nothing; the waker is asked again, not in a rush."""

    async def starting(_: dict[str, Any]) -> bytes:
        return answer(202, "{}")

    waker.on_wake = starting
    await proxy.put(HOST, waker=waker.url)
    held = asyncio.create_task(proxy.request(HOST))
    await until(lambda: len(waker.wakes) == 2)
    await proxy.live(HOST, await serve())
    assert (await held).status == 200
    assert len(waker.wakes) <= 3


async def test_what_was_woken_and_went_again_at_once_is_woken_anew_without_a_pause(
    proxy: Proxy, waker: Waker, serve: Serve
) -> None:
    """The waker's answer comes after the withdrawal of what it speaks of: that was no failed try.

    Eight failed tries would take five seconds, since each pause is twice as long as the one before.
    """
    server = await serve(app())
    await proxy.open(waker)
    await proxy.put(HOST, waker=waker.url)
    answered = asyncio.Event()

    async def late(_: dict[str, Any]) -> bytes:
        revision = await proxy.live(HOST, server, f"i-{len(waker.wakes)}", waker=waker.url)
        await answered.wait()
        return answer(200, json.dumps({"instance": f"i-{len(waker.wakes)}", "revision": revision}))

    waker.on_wake = late
    began = time.monotonic()
    for _ in range(8):
        answered.clear()
        assert (await proxy.request(HOST)).status == 200
        await proxy.put(HOST, waker=waker.url)
        answered.set()
    assert len(waker.wakes) == 8
    assert time.monotonic() - began < 2.5


async def test_a_waker_that_repeats_an_old_answer_is_not_asked_without_a_pause(proxy: Proxy, waker: Waker) -> None:
    """It says that it published what has been withdrawn long since."""
    await proxy.open(waker)
    for _ in range(3):
        await proxy.put(HOST, waker=waker.url)

    async def stale(_: dict[str, Any]) -> bytes:
        return answer(200, json.dumps({"instance": "i-1", "revision": 2}))

    waker.on_wake = stale
    await proxy.request(HOST, Prefer="wait=1")
    assert len(waker.wakes) < 10


async def test_a_visitor_who_leaves_harms_no_other(proxy: Proxy, waker: Waker, serve: Serve) -> None:
    """The one whose request made the waker call goes; the call goes on, and the others are answered."""
    await proxy.put(HOST, waker=waker.url)
    _, leaver = await proxy.connect()
    leaver.write(head(HOST, "GET", "/leaver", None, {}))
    await until(lambda: len(waker.wakes) == 1)
    others = [asyncio.create_task(proxy.request(HOST)) for _ in range(20)]
    await asyncio.sleep(0.05)
    leaver.close()
    await asyncio.sleep(0.05)
    server = await serve()
    await proxy.live(HOST, server)
    assert {message.status for message in await asyncio.gather(*others)} == {200}
    assert "/leaver" not in {message.path for message in server.requests}
    assert len(waker.wakes) == 1


async def test_robots_neither_wake_nor_wait(proxy: Proxy, waker: Waker, serve: Serve) -> None:
    """They are told when to come again; an empty or unknown agent is a visitor."""
    await proxy.put(HOST, waker=waker.url)
    for headers, path in (
        ({"User_Agent": "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)"}, "/"),
        ({"User_Agent": "Mozilla/5.0+(compatible; UptimeRobot/2.0)"}, "/"),
        ({}, "/favicon.ico"),
        ({}, "/robots.txt"),
    ):
        found = await proxy.request(HOST, path=path, **headers)
        assert (found.status, found.state) == (503, "asleep")
        assert "retry-after" in found.headers
    assert waker.wakes == []
    held = asyncio.create_task(proxy.request(HOST, User_Agent="curl/8.0"))
    await until(lambda: len(waker.wakes) == 1)
    await proxy.live(HOST, await serve())
    assert (await held).status == 200


async def test_too_many_held_get_a_clean_answer(start_proxy: StartProxy, waker: Waker, serve: Serve) -> None:
    """Over the cap: 503 at once, and those that wait are not touched."""
    proxy = await start_proxy(nginx_workers=1, held_per_host=10, held_total=15, wake_timeout=20)
    await proxy.open(waker)
    await proxy.put(HOST, waker=waker.url)
    await proxy.put("other.localhost", waker=waker.url)
    held = [asyncio.create_task(proxy.request(HOST)) for _ in range(10)]
    await until(lambda: len(waker.wakes) == 1)
    await asyncio.sleep(0.1)
    found = await proxy.request(HOST)
    assert (found.status, found.state) == (503, "over-capacity")
    others = [asyncio.create_task(proxy.request("other.localhost")) for _ in range(7)]
    await until(lambda: sum(task.done() for task in others) == 2)
    assert {task.result().state for task in others if task.done()} == {"over-capacity"}
    server = await serve()
    await proxy.live(HOST, server)
    await proxy.live("other.localhost", server)
    assert {message.status for message in await asyncio.gather(*held)} == {200}
    await asyncio.gather(*others)


async def test_a_table_that_is_not_loaded_holds(start_proxy: StartProxy, waker: Waker, serve: Serve) -> None:
    """It never says "unknown host", and does not use the wildcard."""
    proxy = await start_proxy(wake_timeout=10)
    await proxy.control.hello(1)
    wildcard, server = await serve(app("wildcard")), await serve()
    await proxy.live("$wildcard", wildcard, "w")
    held = asyncio.create_task(proxy.request(HOST))
    await asyncio.sleep(0.2)
    assert not held.done()
    await proxy.live(HOST, server)
    await proxy.control.set_loaded("local", None, None)
    assert (await held).body == b"app"
    assert (await proxy.request("elsewhere.localhost")).body == b"wildcard"


async def test_a_refused_connect_goes_to_the_waker_with_the_failed_instance(
    proxy: Proxy, waker: Waker, serve: Serve
) -> None:
    """It waits for a publication above the failed revision, POST too; the same revision is no help."""
    dead = await serve()
    await dead.stop()
    revision = await proxy.live(HOST, dead, "i-dead", waker=waker.url)
    held = asyncio.create_task(proxy.request(HOST, "POST", "/", b"precious"))
    await until(lambda: len(waker.wakes) == 1)
    assert waker.wakes[0]["reason"] == "unreachable"
    assert (waker.wakes[0]["instance"], waker.wakes[0]["revision"]) == ("i-dead", revision)
    await proxy.put(HOST, waker=waker.url)
    server = await serve()
    await proxy.live(HOST, server, "i-new", waker=waker.url)
    assert (await held).status == 200
    assert [message.body for message in server.requests] == [b"precious"]
    await proxy.drained("i-dead")


async def test_an_alive_instance_that_listens_again_is_used_after_its_new_publication(
    proxy: Proxy, waker: Waker, serve: Serve
) -> None:
    """A development server that reloads drops its listener for a moment."""
    server = await serve()
    port = server.port
    await server.stop()
    await proxy.live(HOST, server, "i-1", waker=waker.url)
    held = asyncio.create_task(proxy.request(HOST))
    await until(lambda: len(waker.wakes) == 1)
    await serve(server, port)
    await asyncio.sleep(0.1)
    assert not held.done()
    await proxy.live(HOST, server, "i-1", waker=waker.url)
    assert (await held).status == 200


async def test_a_waker_that_says_ready_about_the_same_instance_is_believed(
    proxy: Proxy, waker: Waker, serve: Serve
) -> None:
    """No new publication, but a 200: the request tries once more."""
    server = await serve()
    port = server.port
    await server.stop()
    holder = socket.socket()  # keeps others off the port, and listens to nobody
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.bind(("127.0.0.1", port))

    async def mend(_: dict[str, Any]) -> bytes:
        await serve(server, port)
        return answer(200, '{"instance":"i-1","revision":1}')

    waker.on_wake = mend
    await proxy.live(HOST, server, "i-1", waker=waker.url)
    with holder:
        assert (await proxy.request(HOST)).status == 200


async def test_a_refused_upload_that_cannot_be_repeated_asks_the_waker(proxy: Proxy, waker: Waker) -> None:
    """Part of a chunked body is gone, so it ends with 503; but the next visitor shall find a server."""
    await proxy.put(HOST, "live", address="127.0.0.1", port=free_port(), instance="i-dead", waker=waker.url)
    reader, writer = await proxy.connect()
    writer.write(f"POST / HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n".encode())
    found = await read_head(reader)
    assert (found.status, found.state) == (503, "unreachable")
    writer.close()
    await until(lambda: len(waker.wakes) == 1)
    assert (waker.wakes[0]["reason"], waker.wakes[0]["instance"]) == ("unreachable", "i-dead")


@pytest.mark.parametrize("listens", [True, False])
async def test_only_a_refused_connection_to_https_starts_something(proxy: Proxy, waker: Waker, listens: bool) -> None:
    """A handshake that fails is a bad answer: the server is there."""

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.write(b"HTTP/1.1 400 this is not TLS\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1] if listens else free_port()
        await proxy.put(HOST, "live", address="127.0.0.1", port=port, instance="i", tls=True, waker=waker.url)
        found = await proxy.request(HOST)
    if listens:
        assert (found.status, found.state, waker.wakes) == (502, "broken", [])
    else:
        assert (found.status, found.state, len(waker.wakes)) == (503, "unreachable", 1)
        assert waker.wakes[0]["reason"] == "unreachable"


async def test_resets_never_start_anything(proxy: Proxy, waker: Waker, serve: Serve) -> None:
    """An instance that breaks off in the middle gives 502: nothing is sent again, nobody is woken."""

    async def handler(message: Message, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        await read_body(reader, message.headers)
        return False

    server = await serve(Server(handler))
    await proxy.live(HOST, server, waker=waker.url)
    for method in ("POST", "GET"):
        found = await proxy.request(HOST, method, "/", b"x" if method == "POST" else None)
        assert (found.status, found.state) == (502, "broken")
    assert len(server.requests) == 2
    assert waker.wakes == []
    await proxy.drained("i-1")


async def test_a_server_that_comes_and_goes_ends_in_503(proxy: Proxy, waker: Waker, serve: Serve) -> None:
    """Hops are counted: never NGINX's raw 500 for a redirection cycle."""
    server = await serve()
    await server.stop()

    async def lie(_: dict[str, Any]) -> bytes:
        return answer(200, "{}")

    waker.on_wake = lie
    await proxy.live(HOST, server, waker=waker.url)
    found = await proxy.request(HOST)
    assert found.status in {503, 504}
    assert found.state in {"over-capacity", "unreachable"}


async def test_no_waker(proxy: Proxy) -> None:
    """A route without target and without waker says so at once."""
    await proxy.put(HOST)
    found = await proxy.request(HOST)
    assert (found.status, found.state) == (503, "asleep")


async def test_the_visitors_side_of_the_waker(proxy: Proxy, waker: Waker) -> None:
    """`/.hemera/X` goes to the waker, with the host and the node's token instead of the visitor's; SSE flows."""
    await proxy.put(HOST, waker=waker.url)
    reader, writer = await proxy.connect()
    writer.write(head(HOST, "GET", "/.hemera/events", None, {"Authorization": "Bearer visitor", "Lair-Source": "x"}))
    assert (await read_head(reader)).headers["content-type"] == "text/event-stream"
    for word in ("one", "two"):
        waker.events.put_nowait(word)
        async with asyncio.timeout(1):
            while f"data: {word}".encode() not in await reader.readline():
                pass
    seen = waker.requests[-1]
    assert seen.headers["authorization"] == "Bearer secret"
    assert seen.headers["lair-source"] == HOST
    waker.events.put_nowait("")
    writer.close()
    assert (await proxy.request(HOST, "POST", "/.hemera/retry", b"")).body == b"/waker/visitor/retry"
    assert (await proxy.request("nowhere.localhost", path="/.hemera/events")).state == "unknown-host"


async def test_a_held_websocket_and_a_held_upload_pass(proxy: Proxy, waker: Waker, serve: Serve) -> None:
    """Handshakes and chunked bodies wait as all else does."""

    async def handler(message: Message, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if message.headers.get("upgrade") == "websocket":
            writer.write(b"HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n")
            writer.write(await reader.readexactly(4))
        else:
            message.body = await read_body(reader, message.headers)
            writer.write(answer(200, message.body))

    server = await serve(Server(handler))
    await proxy.put(HOST, waker=waker.url)
    reader, writer = await proxy.connect()
    writer.write(f"GET /ws HTTP/1.1\r\nHost: {HOST}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n".encode())
    up_reader, up_writer = await proxy.connect()
    up_writer.write(f"POST / HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n".encode())
    await until(lambda: len(waker.wakes) == 1)
    await asyncio.sleep(0.1)
    await proxy.live(HOST, server)
    assert (await read_head(reader)).status == 101
    writer.write(b"ping")
    assert await reader.readexactly(4) == b"ping"
    up_writer.write(b"2\r\nde\r\n0\r\n\r\n")
    assert (await read_head(up_reader)).status == 200
    assert await up_reader.readexactly(5) == b"abcde"
    writer.close()
    up_writer.close()


async def test_a_control_object_needs_no_engine(tmp_path: Any) -> None:
    """Made before NGINX runs, it says that the engine is gone."""
    from sourcelair.ceryx.table import EngineGone

    with pytest.raises(EngineGone):
        await NginxControl(tmp_path / "none.sock").hello(1)
