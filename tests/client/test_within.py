"""Requests to an application in the same process say the same as over a connection."""

from __future__ import annotations

import asyncio

import pytest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from sourcelair.client.http import ApiClient
from sourcelair.errors import Conflict, LairError, Unreachable, install_error_handlers
from sourcelair.streams import while_connected

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
