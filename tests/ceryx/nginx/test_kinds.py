"""The right answer for every kind of request, whatever is wrong: a page for people, and never one for anything else."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest
from tests.ceryx.nginx.conftest import Serve, StartProxy
from tests.ceryx.nginx.world import Message, Proxy, Server, Waker, answer, read_body

pytestmark = pytest.mark.anyio

HTML = "text/html,application/xhtml+xml,*/*;q=0.8"
WEBSOCKET = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec_WebSocket_Version": "13",
    "Sec_WebSocket_Key": "eA==",
}


@dataclass(frozen=True)
class Kind:
    """A kind of request. `sees`: a page where one can be shown meanwhile, an error page only, or never HTML."""

    name: str
    sees: str
    method: str = "GET"
    body: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)


def fetched(destination: str, mode: str, accept: str = "*/*") -> dict[str, str]:
    return {"Accept": accept, "Sec_Fetch_Dest": destination, "Sec_Fetch_Mode": mode}


KINDS = [
    Kind("navigation", "page", headers=fetched("document", "navigate", HTML)),
    Kind("navigation in an iframe", "page", headers=fetched("iframe", "navigate", HTML)),
    Kind("navigation of an old browser", "page", headers={"Accept": HTML}),
    Kind("form", "error page", "POST", b"a=b", fetched("document", "navigate", HTML)),
    Kind("form of an old browser", "problem", "POST", b"a=b", {"Accept": HTML}),
    Kind("script", "problem", headers=fetched("script", "no-cors")),
    Kind("style", "problem", headers=fetched("style", "no-cors", "text/css,*/*;q=0.1")),
    Kind("image", "problem", headers=fetched("image", "no-cors", "image/avif,*/*")),
    Kind("font", "problem", headers=fetched("font", "cors")),
    Kind("an asset that accepts HTML", "problem", headers={"Accept": HTML, "Sec_Fetch_Dest": "script"}),
    Kind("fetch", "problem", headers=fetched("empty", "cors")),
    Kind("fetch of a fragment", "problem", headers=fetched("empty", "same-origin", HTML)),
    Kind("fetch of an old browser", "problem", headers={"Accept": HTML, "X_Requested_With": "XMLHttpRequest"}),
    Kind("API call", "problem", headers={"Accept": "application/json"}),
    Kind("curl", "problem"),
    Kind("API post", "problem", "POST", b"{}", {"Content_Type": "application/json"}),
    Kind("image of an old browser", "problem", headers={"Accept": "image/webp,*/*"}),
    Kind("WebSocket", "problem", headers=WEBSOCKET | {"Accept": HTML}),
    Kind("WebSocket of a browser", "problem", headers=WEBSOCKET | fetched("empty", "websocket")),
    Kind("event stream", "problem", headers=fetched("empty", "cors", "text/event-stream")),
    Kind("HEAD", "problem", "HEAD", headers={"Accept": HTML}),
    Kind("OPTIONS", "problem", "OPTIONS"),
    Kind(
        "preflight", "problem", "OPTIONS",
        headers={"Origin": "https://ide.example", "Access_Control_Request_Method": "PUT", **fetched("empty", "cors")},
    ),
]  # fmt: skip


@dataclass(frozen=True)
class Trouble:
    """What is wrong. `page`: what people get: (status, whose page); `problem`: (status, state) of all others."""

    page: tuple[int, str]
    problem: tuple[int, str]


TROUBLES = {
    "slow": Trouble((503, "waker"), (504, "starting")),
    "failed": Trouble((503, "waker"), (503, "failed")),
    "disabled": Trouble((503, "waker"), (503, "disabled")),
    "unknown": Trouble((503, "own"), (503, "unknown-host")),
    "gone": Trouble((503, "own"), (504, "waker-unreachable")),
}


async def wake(order: dict[str, Any]) -> bytes:
    kind = order["source"].split(".")[1]
    if kind == "slow":
        return answer(202, "{}")
    status = 503 if kind == "failed" else 403
    return answer(status, '{"detail":"no"}', Content_Type="application/problem+json", Lair_State=kind, Retry_After="7")


async def prepare(proxy: Proxy, waker: Waker, trouble: str, at: int) -> str:
    host = f"h{at}.{trouble}.localhost"
    if trouble != "unknown":
        gone = "http://127.0.0.1:9/waker"
        await proxy.put(host, waker=gone if trouble == "gone" else waker.url)
    return host


def check(kind: Kind, trouble: str, found: Message) -> None:
    expected = TROUBLES[trouble]
    case = f"{kind.name} at {trouble}: {found.status} {found.headers}"
    assert found.headers["cache-control"] == "no-store", case
    assert int(found.headers["retry-after"]) > 0, case
    assert found.headers["access-control-allow-origin"] == "*", case
    assert "Lair-State" in found.headers["access-control-expose-headers"], case
    if kind.sees == "page":
        assert found.status == expected.page[0], case
        assert found.headers["content-type"].startswith("text/html"), case
        assert (found.body[:4] == b"PAGE") is (expected.page[1] == "waker"), case
        return
    assert (found.status, found.state) == expected.problem, case
    of_ours = kind.sees == "error page"
    content_type = "text/html; charset=utf-8" if of_ours else "application/problem+json"
    assert found.headers["content-type"] == content_type, case
    if kind.method == "HEAD":
        assert found.body == b"", case
    elif of_ours:
        assert b"http-equiv" not in found.body, "what a form sent is not asked for again"
    else:
        assert found.json()["detail"], case


@pytest.mark.parametrize("trouble", list(TROUBLES))
async def test_every_kind_of_request_gets_its_answer(start_proxy: StartProxy, waker: Waker, trouble: str) -> None:
    """A server that starts slowly, failed, is switched off or unknown, and a waker that is gone."""
    proxy = await start_proxy(patience=0.05, wake_timeout=1)
    await proxy.open(waker)
    waker.on_wake = wake
    hosts = [await prepare(proxy, waker, trouble, at) for at in range(len(KINDS))]

    async def ask(kind: Kind, host: str) -> Message:
        return await proxy.request(host, kind.method, "/", kind.body, **kind.headers)

    for kind, found in zip(KINDS, await asyncio.gather(*map(ask, KINDS, hosts)), strict=True):
        check(kind, trouble, found)
    assert proxy.errors() == []


async def test_all_our_other_answers_say_the_same(start_proxy: StartProxy, waker: Waker, serve: Serve) -> None:
    """State, Retry-After, no-store, and readable for scripts: gRPC, a broken app, robots, a name without address."""
    proxy = await start_proxy(wake_timeout=1)
    await proxy.open(waker)

    async def hang_up(message: Message, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        await read_body(reader, message.headers)
        return False

    await proxy.live("broken.localhost", await serve(Server(hang_up)), "i-1")
    await proxy.put("nowaker.localhost")
    await proxy.put("asleep.localhost", waker=waker.url)
    await proxy.put("unresolved.localhost", "unresolved", problem="no such name")
    await proxy.put("dead.localhost", "live", address="127.0.0.1", port=9, instance="i-2")
    grpc = {"Content_Type": "application/grpc", "TE": "trailers"}
    asked: list[tuple[str, int, str, dict[str, str]]] = [
        ("broken", 502, "broken", {}),
        ("nowaker", 503, "asleep", {}),
        ("asleep", 503, "asleep", {"User_Agent": "UptimeRobot/2.0"}),
        ("unresolved", 503, "unresolved", {}),
        ("dead", 503, "unreachable", {}),
        ("asleep", 501, "grpc", grpc),
    ]
    for name, status, state, headers in asked:
        for accept in (HTML, "application/json"):
            body = b"12345" if state == "grpc" else None
            method = "POST" if body else "GET"
            found = await proxy.request(f"{name}.localhost", method, body=body, Accept=accept, **headers)
            assert (found.status, found.state) == (status, state)
            assert found.headers["cache-control"] == "no-store", state
            assert int(found.headers["retry-after"]) > 0, state
            assert found.headers["access-control-allow-origin"] == "*", state
            assert "Retry-After" in found.headers["access-control-expose-headers"], state
            is_page = accept == HTML and method == "GET"
            assert found.headers["content-type"].startswith("text/html") is is_page, state
