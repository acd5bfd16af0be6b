"""A client's own word on waiting (RFC 7240), and limits of one visitor that must not be another's."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from tests.ceryx.nginx.conftest import Serve, StartProxy
from tests.ceryx.nginx.world import BROWSER, Message, Proxy, Server, Waker, answer, head, read_body, read_head, until

from sourcelair.ceryx.agent.compiled import compile_settings
from sourcelair.client.ceryx import RouteSettings
from sourcelair.client.policy import QuietRule

pytestmark = pytest.mark.anyio
HOST = "blog--demo.localhost"
RULE = QuietRule(address="10.0.0.0/8")


def problem(status: int, state: str, retry_after: str = "7") -> bytes:
    body = json.dumps({"detail": state, "status": status})
    return answer(status, body, Content_Type="application/problem+json", Lair_State=state, Retry_After=retry_after)


def with_code(*answers: bytes) -> Callable[[dict[str, Any]], Awaitable[bytes]]:
    """A waker's answers in their order; the last one again and again."""
    left = list(answers)

    async def wake(_: dict[str, Any]) -> bytes:
        return left.pop(0) if len(left) > 1 else left[0]

    return wake


def check_ours(found: Message, state: str) -> None:
    assert found.state == state
    assert found.headers["cache-control"] == "no-store"
    assert int(found.headers["retry-after"]) > 0
    assert found.headers["access-control-allow-origin"] == "*"
    exposed = found.headers["access-control-expose-headers"].split(", ")
    assert {"Lair-State", "Retry-After", "Preference-Applied"} <= set(exposed)


async def test_wait_holds_as_long_as_the_client_says(start_proxy: StartProxy, waker: Waker, serve: Serve) -> None:
    """A navigation is held beyond its patience, and gets the app itself."""
    proxy = await start_proxy(patience=0.05, wake_timeout=20)
    await proxy.open(waker)
    await proxy.put(HOST, waker=waker.url)
    held = asyncio.create_task(proxy.request(HOST, Prefer="handling=lenient, Wait=15", **BROWSER))
    page = await proxy.request(HOST, **BROWSER)
    assert page.body[:4] == b"PAGE"
    assert "preference-applied" not in page.headers
    assert not held.done()
    server = await serve()
    await proxy.live(HOST, server)
    found = await held
    assert (found.status, found.body) == (200, b"app")
    assert "preference-applied" not in found.headers
    assert server.requests[0].headers["prefer"] == "handling=lenient, Wait=15"


async def test_the_end_of_that_wait(start_proxy: StartProxy, waker: Waker) -> None:
    """What was followed is said; more than the route's own time is cut to it."""
    proxy = await start_proxy(patience=60, wake_timeout=60)
    await proxy.open(waker)
    settings = compile_settings(RouteSettings(wake_timeout=1.5), flows=True)
    await proxy.put(HOST, waker=waker.url, settings=settings)
    api, page, cut, first = await asyncio.gather(
        proxy.request(HOST, Prefer="wait=0"),
        proxy.request(HOST, Prefer='wait="0"; x', **BROWSER),
        proxy.request(HOST, Prefer="wait=500"),
        proxy.request(HOST, Prefer="wait=1, wait=500"),
    )
    assert (api.status, api.json()["state"]) == (504, "starting")
    assert (page.status, page.body[:4]) == (503, b"PAGE")
    assert cut.status == first.status == 504
    for found, applied in ((api, "wait=0"), (page, "wait=0"), (cut, "wait=1"), (first, "wait=1")):
        check_ours(found, "starting")
        assert found.headers["preference-applied"] == applied
    assert len(waker.wakes) == 1


@pytest.mark.parametrize(
    "text",
    ["wait", "wait=soon", "wait=-1", '"respond-async', "x;respond-async", ",", "x," * 500 + "respond-async"],
    ids=["bare", "word", "negative", "quoted", "parameter", "nothing", "long"],
)
async def test_what_is_no_preference_of_ours_changes_nothing(proxy: Proxy, waker: Waker, text: str) -> None:
    """The node's times count then."""
    await proxy.put(HOST, waker=waker.url)
    found = await proxy.request(HOST, Prefer=text, **BROWSER)
    assert found.body[:4] == b"PAGE"
    assert "preference-applied" not in found.headers


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("prefer", ["respond-async", "respond-async, wait=0", "Respond-Async;x=1,wait=0"])
async def test_who_prefers_it_is_told_at_once_that_it_starts(
    start_proxy: StartProxy, waker: Waker, method: str, prefer: str
) -> None:
    """202 with the state in it, and the wake has been asked for."""
    proxy = await start_proxy(patience=60, wake_timeout=60)
    await proxy.open(waker)
    await proxy.put(HOST, waker=waker.url)
    found = await proxy.request(HOST, method, Prefer=prefer, **BROWSER)
    assert found.status == 202
    check_ours(found, "starting")
    assert found.headers["content-type"] == "application/json"
    assert found.headers["preference-applied"] == ", ".join(["respond-async", *["wait=0"] * ("wait" in prefer)])
    if method == "GET":
        assert found.json()["state"] == "starting"
    await until(lambda: len(waker.wakes) == 1)


async def test_nothing_with_a_body_is_told_202(start_proxy: StartProxy, waker: Waker) -> None:
    """Its body was not taken: it must come again."""
    proxy = await start_proxy(wake_timeout=60)
    await proxy.open(waker)
    await proxy.put(HOST, waker=waker.url)
    for method, body in (("POST", b"x"), ("PUT", b"x"), ("DELETE", None)):
        found = await proxy.request(HOST, method, "/", body, Prefer="respond-async")
        assert (found.status, found.json()["state"]) == (503, "starting")
        check_ours(found, "starting")
        assert "preference-applied" not in found.headers
    await until(lambda: len(waker.wakes) == 1)


async def test_a_live_target_decides_for_itself(proxy: Proxy, waker: Waker, serve: Serve) -> None:
    """The preference is the app's then, and it gets it."""
    server = await serve()
    await proxy.live(HOST, server, waker=waker.url)
    found = await proxy.request(HOST, Prefer="respond-async, wait=0")
    assert (found.status, found.state) == (200, "")
    assert server.requests[0].headers["prefer"] == "respond-async, wait=0"


async def test_who_asks_again_and_again_learns_how_it_ended(proxy: Proxy, waker: Waker, serve: Serve) -> None:
    """Not "starting" for ever: a failure is told, and the next try begun; then the app answers."""
    waker.on_wake = with_code(problem(503, "failed"))
    await proxy.put(HOST, waker=waker.url)

    async def poll(status: int) -> Message:
        async with asyncio.timeout(10):
            while (found := await proxy.request(HOST, Prefer="respond-async")).status != status:
                await asyncio.sleep(0.02)
            return found

    assert (await proxy.request(HOST, Prefer="respond-async")).status == 202
    found = await poll(503)
    check_ours(found, "failed")
    assert found.headers["retry-after"] == "7"
    waker.on_wake = waker.still_starting
    await poll(202)
    await proxy.live(HOST, await serve())
    assert (await proxy.request(HOST, Prefer="respond-async")).status == 200


async def test_a_wake_is_asked_for_though_nobody_waits(proxy: Proxy, waker: Waker) -> None:
    """Also where the last call ended a moment ago, and the next one has to pause first."""
    waker.on_wake = with_code(problem(503, "failed"))
    await proxy.put(HOST, waker=waker.url)
    for _ in range(4):
        await proxy.request(HOST)
    asked = len(waker.wakes)
    assert (await proxy.request(HOST, Prefer="respond-async")).status == 503
    await until(lambda: len(waker.wakes) == asked + 1)
    await asyncio.sleep(0.5)
    assert len(waker.wakes) == asked + 1, "once"


async def test_a_waker_that_is_gone_is_not_called_starting(proxy: Proxy, waker: Waker) -> None:
    """Nothing starts then."""
    await proxy.put(HOST, waker=waker.url)
    await waker.stop()
    assert (await proxy.request(HOST)).status == 504
    found = await proxy.request(HOST, Prefer="respond-async")
    assert found.status == 503
    check_ours(found, "waker-unreachable")


async def test_too_many_starts_of_one_address_are_no_other_visitors(
    start_proxy: StartProxy, waker: Waker, serve: Serve
) -> None:
    """Only the held requests of that address end; for the others the waker is asked at once, by their own."""
    proxy = await start_proxy(patience=60, wake_timeout=60, trusted_proxies=["127.0.0.0/8"])
    await proxy.open(waker)
    first = asyncio.Event()

    async def wake(order: dict[str, Any]) -> bytes:
        await first.wait()
        if order["address"] == "203.0.113.1":
            return problem(429, "rate-limited", "9")
        return await waker.still_starting(order)

    waker.on_wake = wake
    await proxy.put(HOST, waker=waker.url)
    limited = [asyncio.create_task(proxy.request(HOST, X_Real_IP="203.0.113.1"))]
    await until(lambda: len(waker.wakes) == 1)
    limited += [asyncio.create_task(proxy.request(HOST, X_Real_IP="203.0.113.1")) for _ in range(10)]
    limited.append(asyncio.create_task(proxy.request(HOST, X_Real_IP="203.0.113.1", **BROWSER)))
    others = [asyncio.create_task(proxy.request(HOST, X_Real_IP=f"203.0.113.{n}")) for n in range(2, 12)]

    async def are_held() -> bool:
        return (await proxy.control.hello(1)).held == 22

    await until(are_held)
    first.set()
    *found, page = await asyncio.gather(*limited)
    assert {message.status for message in found} == {429}
    for message in [*found, page]:
        check_ours(message, "rate-limited")
        assert message.headers["retry-after"] == "9"
    assert {message.json()["detail"] for message in found} == {"rate-limited"}
    assert (page.status, page.headers["content-type"]) == (503, "text/html; charset=utf-8")
    await until(lambda: len(waker.wakes) == 2)
    assert waker.wakes[1]["address"] != "203.0.113.1"
    assert not any(task.done() for task in others)
    await proxy.live(HOST, await serve())
    assert {message.status for message in await asyncio.gather(*others)} == {200}
    assert len(waker.wakes) == 2
    assert proxy.errors() == []


async def test_a_limited_address_does_not_flood_the_waker(proxy: Proxy, waker: Waker) -> None:
    """One call a second for it, however many requests come."""
    waker.on_wake = with_code(problem(429, "rate-limited"))
    await proxy.put(HOST, waker=waker.url)
    assert (await proxy.request(HOST)).status == 429
    found = await asyncio.gather(*(proxy.request(HOST, path=f"/{n}") for n in range(100)))
    assert {message.status for message in found} == {429}
    assert len(waker.wakes) <= 3


async def test_queued_is_held_on(proxy: Proxy, waker: Waker, serve: Serve) -> None:
    """A place in the queue ends nobody's wait."""
    waker.on_wake = with_code(answer(202, '{"state":"queued","place":3}', Lair_State="queued"))
    await proxy.put(HOST, waker=waker.url)
    held = asyncio.create_task(proxy.request(HOST))
    await until(lambda: len(waker.wakes) == 2)
    await proxy.live(HOST, await serve())
    assert (await held).status == 200


async def test_a_script_of_another_origin_may_send_its_preference(
    start_proxy: StartProxy, waker: Waker, serve: Serve
) -> None:
    """That alone is allowed in the app's absence, at once; any other preflight waits for the app's own word."""
    proxy = await start_proxy(wake_timeout=60)
    await proxy.open(waker)
    await proxy.put(HOST, waker=waker.url)
    asked = {"Origin": "https://ide.example", "Access_Control_Request_Method": "GET"}
    for host in (HOST, "nobody.example"):
        found = await proxy.request(host, "OPTIONS", Access_Control_Request_Headers="prefer", **asked)
        assert found.status == 204
        assert found.headers["access-control-allow-headers"] == "Prefer"
        assert found.headers["access-control-allow-origin"] == "*"
    assert waker.wakes == []
    others = [
        asked | {"Access_Control_Request_Headers": "authorization, prefer"},
        asked | {"Access_Control_Request_Method": "PUT", "Access_Control_Request_Headers": "prefer"},
        {},
    ]
    held = [asyncio.create_task(proxy.request(HOST, "OPTIONS", **headers)) for headers in others]
    await until(lambda: len(waker.wakes) == 1)
    server = await serve()
    await proxy.live(HOST, server)
    for task in held:
        found = await task
        assert (found.status, found.body) == (200, b"app")
        assert "access-control-allow-origin" not in found.headers
    found = await proxy.request(HOST, "OPTIONS", Access_Control_Request_Headers="prefer", **asked)
    assert found.status == 200, "an app that is there answers for itself"


async def test_a_long_header_costs_nobody_anything(start_proxy: StartProxy, waker: Waker) -> None:
    """What a visitor writes is looked at in one pass: a worker that is busy with it serves nobody else meanwhile."""
    proxy = await start_proxy(wake_timeout=0.02, trusted_proxies=["127.0.0.0/8"])
    await proxy.open(waker)
    await proxy.put(HOST, waker=waker.url, settings=compile_settings(RouteSettings(quiet=[RULE]), flows=True))
    long = "a" + 32_000 * " " + "b"
    asked: list[tuple[str, dict[str, str]]] = [
        ("OPTIONS", {"Access_Control_Request_Method": "GET", "Access_Control_Request_Headers": long}),
        ("GET", {"X_Real_IP": long}),
        ("GET", {"X_Forwarded_For": long}),
        ("GET", {"Prefer": f"wait=0{long}"}),
    ]
    for method, headers in asked:
        async with asyncio.timeout(2):
            assert (await proxy.request(HOST, method, **headers)).state == "starting"


async def test_a_visitor_who_leaves_frees_his_place(start_proxy: StartProxy, waker: Waker) -> None:
    """What is held is known, and falls to nothing."""
    proxy = await start_proxy(wake_timeout=60)
    await proxy.open(waker)
    await proxy.put(HOST, waker=waker.url)
    connections = [await proxy.connect() for _ in range(5)]
    for _, writer in connections:
        writer.write(head(HOST, "GET", "/", None, {}))

    async def are_held(count: int) -> bool:
        return (await proxy.control.hello(1)).held == count

    await until(lambda: are_held(5))
    for _, writer in connections:
        writer.close()
    await until(lambda: are_held(0))


async def test_slower_than_the_read_timeout_is_one_answer_and_one_request(
    start_proxy: StartProxy, waker: Waker, serve: Serve
) -> None:
    """504 with the state; nothing is sent again, and nobody is woken: it may be busy."""
    proxy = await start_proxy(read_timeout=1, stream_timeout=1)
    await proxy.open(waker)

    async def silent(message: Message, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        message.body = await read_body(reader, message.headers)
        await asyncio.sleep(60)

    server = await serve(Server(silent))
    await proxy.live(HOST, server, waker=waker.url)
    reader, writer = await proxy.connect()
    writer.write(f"POST /up HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n".encode())
    found = await asyncio.gather(
        proxy.request(HOST, path="/get"),
        proxy.request(HOST, "POST", "/post", b"x"),
        proxy.request(HOST, path="/page", **BROWSER),
        proxy.request(HOST, path="/events", Accept="text/event-stream"),
        read_head(reader),
    )
    writer.close()
    assert [message.status for message in found] == [504] * 5
    for message in found:
        check_ours(message, "timeout")
    assert sorted(message.path for message in server.requests) == ["/events", "/get", "/page", "/post", "/up"]
    assert waker.wakes == []

    async def are_over() -> bool:
        return (await proxy.count("i-1")).in_flight == 0

    await until(are_over)
