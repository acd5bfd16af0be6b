"""What one process passes on to another arrives as it was sent."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse
from starlette.types import Receive, Scope, Send
from tests.ceryx.conftest import listening, running

from sourcelair.cli.system.forwarding import Forward
from sourcelair.cli.system.http_server import HttpServer
from sourcelair.cli.system.location import Location
from sourcelair.client.ceryx import CeryxClient, Route
from sourcelair.errors import NotFound, Unreachable

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    "source", ["www.example.com/docs/v1", "*.example.com/b%C3%BCcher", "[::1]/a", "$wildcard/a+b,c", "localhost"]
)
async def test_sources_keep_every_character(tmp_path: Path, source: str) -> None:
    """Slashes and escapes of a source are escaped once, by the client, and decoded once, by who answers."""
    async with running(tmp_path) as ceryx, listening(ceryx) as url:
        place = Location("ceryx")
        place.move(url)
        forward = Forward(cast(Any, None), lambda _: False, {"ceryx": place})
        client = CeryxClient("http://other.test", "admin", transport=httpx.ASGITransport(forward))
        try:
            revision = await client.put_route(Route(source=source, target="http://h:1"))
            assert (await client.get_route(source)).revision == revision
            assert [route.source for route in (await client.list_routes())[0]] == [source]
            await client.delete_route(source)
            with pytest.raises(NotFound):
                await client.get_route(source)
        finally:
            await client.close()
            await forward.close()


async def answered(scope: Scope, receive: Receive, send: Send, slow: asyncio.Event | None = None) -> None:
    """Say what came, with the body; `/waker/slow` never answers, and `/api/events` is a stream without an end.

    `slow` is set when the former has arrived.
    """
    request = Request(scope, receive)
    if scope["path"] == "/waker/slow":
        assert slow is not None
        slow.set()
        await asyncio.Event().wait()
    if scope["path"] == "/api/events":

        async def forever() -> AsyncIterator[bytes]:
            yield b"data: 1\n\n"
            await asyncio.Event().wait()

        await StreamingResponse(forever(), media_type="text/event-stream")(scope, receive, send)
        return
    body = await request.body()
    raw = scope["raw_path"].decode() + "?" + scope["query_string"].decode()
    answer = {
        "method": request.method,
        "path": raw,
        "body": body.decode(),
        "odd": [value.decode("latin-1") for name, value in scope["headers"] if name == b"x-odd"],
        "forwarded": request.headers.get("lair-forwarded"),
        "hops": [name for name in request.headers if name in {"keep-alive", "upgrade"}],
    }
    await JSONResponse(answer, 201, headers={"X-Answer": "yes"})(scope, receive, send)


@contextlib.asynccontextmanager
async def between(slow: asyncio.Event | None = None) -> AsyncIterator[tuple[httpx.AsyncClient, Location, Forward]]:
    """A client of a process that acts for nothing, and the place where another one acts for all (see `answered`)."""
    listening = socket.create_server(("127.0.0.1", 0))
    listening.setblocking(False)
    server = HttpServer(functools.partial(answered, slow=slow), listening)
    serving = asyncio.create_task(server.run_forever())
    place = Location("servers")
    place.move(f"http://127.0.0.1:{listening.getsockname()[1]}")
    forward = Forward(answered, lambda _: False, {"ceryx": place, "servers": place, "hemera": place})
    transport = httpx.ASGITransport(forward)
    try:
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
            yield client, place, forward
    finally:
        server.should_exit = True
        await serving
        await forward.close()
        listening.close()


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "HEAD"])
async def test_a_request_arrives_as_it_was_sent(method: str) -> None:
    """Method, path, query, body and headers, of which one need not be text; what is of one connection does not."""
    async with between() as (client, _, _):
        headers = {"X-Odd": "é".encode("latin-1"), "Keep-Alive": "5", "Upgrade": "h2c"}
        content = b"hello" if method in {"POST", "PUT", "DELETE"} else None
        answer = await client.request(method, "/api/servers/a%2Fb/?x=1&y=%C3%A9", content=content, headers=headers)
        assert (answer.status_code, answer.headers["x-answer"]) == (201, "yes")
        if method != "HEAD":
            assert answer.json() == {
                "method": method,
                "path": "/api/servers/a%2Fb/?x=1&y=%C3%A9",
                "body": "hello" if content else "",
                "odd": ["é"],
                "forwarded": "1",
                "hops": [],
            }


async def test_what_nobody_acts_for_is_said_so() -> None:
    """While nobody does; where the other one does not either; and where it moves while it answers nothing."""
    arrived = asyncio.Event()
    async with between(arrived) as (client, place, _):
        twice = await client.get("/api/servers/", headers={"Lair-Forwarded": "1"})
        assert (twice.status_code, twice.headers["content-type"]) == (502, "application/problem+json")
        slow = asyncio.create_task(client.get("/waker/slow"))
        await arrived.wait()
        assert not slow.done()
        place.move(None)
        assert "has moved" in (await slow).json()["detail"]
        nobody = await client.get("/api/servers/")
        assert (nobody.status_code, nobody.headers["retry-after"]) == (502, "1")
        assert "No process acts for servers" in nobody.json()["detail"]
        place.move("http://127.0.0.1:1")
        assert "does not answer" in (await client.get("/api/servers/")).json()["detail"]
        assert (await client.get("/healthz")).status_code == 201, "this is answered here"


@pytest.mark.parametrize(("path", "status"), [("/api/servers/", 503), ("/api/routes/", 503), ("/waker/wake", 502)])
async def test_what_is_starting_here_says_so(path: str, status: int) -> None:
    """A node that wakes a server asks again: a 503 of its waker would mean that a start has failed."""
    forward = Forward(answered, lambda _: False, {})
    async with httpx.AsyncClient(transport=httpx.ASGITransport(forward), base_url="http://here") as client:
        answer = await client.post(path)
        assert (answer.status_code, answer.headers["retry-after"]) == (status, "1")
    await forward.close()


async def test_a_call_within_the_process_can_be_cancelled() -> None:
    """Whatever ends this process: whoever asks in it is not told anything, but ends."""
    arrived = asyncio.Event()
    async with between(arrived) as (_, _, forward), CeryxClient("http://here", within=forward) as client:
        asking = asyncio.create_task(client.request("GET", "/waker/slow"))
        await arrived.wait()
        asking.cancel()
        await asyncio.wait([asking], timeout=5)
        assert asking.cancelled()


async def test_a_stream_comes_as_it_is_sent_and_ends_when_its_place_moves() -> None:
    async with between() as (_, place, forward), CeryxClient("http://here", within=forward) as client:
        async with asyncio.timeout(10):
            with pytest.raises(Unreachable):
                async with client.events("/api/events") as events:
                    async for event in events:
                        assert event.data == "1"
                        place.move(None)
