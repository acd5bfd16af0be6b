"""Requests to an application in the same process say the same as over a connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable

import pytest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from sourcelair.client.http import ApiClient
from sourcelair.client.within import PIECES
from sourcelair.errors import Conflict, HistoryCompacted, LairError, Unreachable, install_error_handlers
from sourcelair.streams import EventStream, event, while_connected

pytestmark = pytest.mark.anyio

URL = "http://127.0.0.1:7070"


def app() -> FastAPI:
    made = FastAPI()
    install_error_handlers(made)

    @made.post("/echo/{name}")
    async def echo(name: str, request: Request) -> JSONResponse:
        seen = {
            "name": name,
            "body": (await request.body()).decode(),
            "query": dict(request.query_params),
            "host": request.headers["host"],
            "token": request.headers["authorization"],
            "own": request.headers.get("x-own"),
        }
        return JSONResponse(seen)

    @made.get("/conflict")
    async def conflict() -> None:
        raise Conflict("It is there.", host="blog")

    @made.get("/breaks")
    async def breaks() -> None:
        raise RuntimeError("a secret of the log")

    return made


async def test_all_of_a_request_arrives() -> None:
    async with ApiClient(URL, "token", within=app()) as client:
        said = await client.request(
            "POST",
            "/echo/a%2Db",
            body={"ä": 1},
            params={"wait": 1.5, "no": None, "é": "a b&c"},
            headers={"X-Own": "yes"},
        )
    assert said.json() == {
        "name": "a-b",
        "body": '{"\\u00e4": 1}',
        "query": {"wait": "1.5", "é": "a b&c"},
        "host": "127.0.0.1:7070",
        "token": "Bearer token",
        "own": "yes",
    }


async def test_problems_are_the_errors_that_they_were_made_of() -> None:
    async with ApiClient(URL, within=app()) as client:
        with pytest.raises(Conflict) as raised:
            await client.request("GET", "/conflict")
    assert raised.value.detail == "It is there."
    assert raised.value.extra["host"] == "blog"


async def test_what_nobody_foresaw_is_an_error_and_in_the_log(capsys: pytest.CaptureFixture[str]) -> None:
    async with ApiClient(URL, within=app()) as client:
        with pytest.raises(LairError, match="nobody foresaw"):
            await client.request("GET", "/breaks")
    logged = capsys.readouterr()
    assert "a secret of the log" in logged.out + logged.err


async def test_an_application_that_ends_without_an_answer_does_not_answer() -> None:
    async def silent(scope: object, receive: object, send: object) -> None:
        pass

    async with ApiClient(URL, within=silent) as client:
        with pytest.raises(Unreachable, match="broke off"):
            await client.request("GET", "/")


async def test_who_is_cancelled_has_gone_away() -> None:
    ended = asyncio.Event()
    began = asyncio.Event()
    made = FastAPI()

    async def work() -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    @made.get("/long")
    async def long(request: Request) -> None:
        await while_connected(request, work())

    async with ApiClient(URL, within=made) as client:
        asking = asyncio.ensure_future(client.request("GET", "/long"))
        await began.wait()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
    assert ended.is_set()


async def test_an_answer_that_takes_too_long_is_none() -> None:
    made = FastAPI()

    @made.get("/long")
    async def long() -> None:
        await asyncio.Event().wait()

    async with ApiClient(URL, within=made, patience=0.01) as client:
        with pytest.raises(Unreachable):
            await client.request("GET", "/long")


def streaming(source: AsyncGenerator[bytes, None], closing: asyncio.Event | None = None) -> FastAPI:
    made = FastAPI()
    install_error_handlers(made)

    @made.get("/events")
    async def events(request: Request) -> EventStream:
        if request.query_params.get("from") == "long ago":
            raise HistoryCompacted("Gone.")
        return EventStream(source, closing or asyncio.Event())

    return made


async def counted() -> AsyncGenerator[bytes, None]:
    for number in range(1000):
        yield event("count", number, str(number))


async def test_a_stream_is_read_as_it_comes_and_ends_with_its_source() -> None:
    client = ApiClient(URL, within=streaming(counted()))
    async with client, client.events("/events", params={"from": None}) as events:
        seen = [(one.event, one.json(), one.id) async for one in events]
    assert seen == [("count", number, str(number)) for number in range(1000)]


async def test_who_reads_slowly_holds_the_source_up() -> None:
    sent = 0

    async def source() -> AsyncGenerator[bytes, None]:
        nonlocal sent
        while True:
            sent += 1
            yield event("count", sent)

    async with ApiClient(URL, within=streaming(source())) as client, client.events("/events") as events:
        assert (await anext(events)).json() == 1
        for _ in range(1000):
            await asyncio.sleep(0)
        assert sent < 2 * PIECES


async def test_who_leaves_a_stream_ends_its_source() -> None:
    ended = asyncio.Event()

    async def source() -> AsyncGenerator[bytes, None]:
        try:
            yield event("first", 1)
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with ApiClient(URL, within=streaming(source())) as client, client.events("/events") as events:
        await anext(events)
    assert ended.is_set()


async def test_a_refused_stream_is_its_error() -> None:
    async with ApiClient(URL, within=streaming(counted())) as client:
        with pytest.raises(HistoryCompacted, match="Gone"):
            async with client.events("/events", params={"from": "long ago"}):
                pass


async def test_a_stream_that_fails_is_broken() -> None:
    async def cut(scope: object, receive: object, send: Callable[[dict[str, object]], Awaitable[None]]) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        await send({"type": "http.response.body", "body": event("first", 1), "more_body": True})

    async def silent(scope: object, receive: object, send: object) -> None:
        pass

    for broken in (cut, silent):
        async with ApiClient(URL, within=broken) as client:
            with pytest.raises(Unreachable, match="broke off"):
                async with client.events("/events") as events:
                    async for one in events:
                        assert one.json() == 1
