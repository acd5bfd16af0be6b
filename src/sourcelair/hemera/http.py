"""Hemera over HTTP: the waker contract for proxy nodes, the waiting page, and its progress for visitors."""

# Annotations are evaluated at once here (no `from __future__`): FastAPI can't find a closure's names in their text.

import asyncio
from collections.abc import AsyncGenerator
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse

from sourcelair.auth import Identity
from sourcelair.auth.http import Authenticate
from sourcelair.client.servers import Server
from sourcelair.client.waker import WakeRequest, WakeResult
from sourcelair.errors import PROBLEM_JSON, Forbidden, InvalidInput, LairError, from_problem
from sourcelair.hemera import pages
from sourcelair.hemera.retries import safe_path
from sourcelair.hemera.service import HemeraService
from sourcelair.hemera.waker import Outcome
from sourcelair.names import normalise_host
from sourcelair.streams import EventStream, event

LONGEST_STREAM = 600.0
"""Seconds after which a visitor's stream ends; browsers open it again."""


def create_router(service: HemeraService, authenticate: Authenticate) -> APIRouter:
    """Return Hemera's API: all of it is for proxy nodes, which pass on what is for visitors.

    Args:
        service: does the work.
        authenticate: tells who asks.
    """
    router = APIRouter(prefix="/waker", tags=["waker"])

    async def node(request: Request) -> Identity:
        identity = authenticate(request)
        if identity.kind not in {"waker", "service", "admin"}:
            raise Forbidden("This is for proxy nodes: it needs their token.")
        return identity

    @router.post("/wake", responses={200: {"model": WakeResult}}, response_class=Response)
    async def wake(body: WakeRequest, _: Annotated[Identity, Depends(node)]) -> Response:
        """Wake the server of a host: 200 it is ready, 202 it is still starting, 403 it may not, 404, 503 it failed."""
        if not service.started:
            return _answer(Outcome(202, "starting", retry_after=1))
        return _answer(await service.waker.wake(body.model_copy(update={"source": _host(body.source)})))

    @router.get("/page", response_class=HTMLResponse)
    async def page(source: str, _: Annotated[Identity, Depends(node)], path: str = "/") -> Response:
        """Return the page for a visitor of a host: waiting, failed, switched off."""
        host = _host(source)
        try:
            html, state, retry = pages.render(await service.directory.find(host), host, path=path)
        except LairError:  # nobody knows yet: a page that comes again
            html, state, retry = pages.render(None, host, state="starting")
        headers = {"Lair-State": state, "Retry-After": str(retry), "Cache-Control": "no-store"}
        return HTMLResponse(html, status_code=503, headers=headers)

    @router.post("/visitor/retry", status_code=303)
    async def retry(
        _: Annotated[Identity, Depends(node)], to: str = "/", lair_source: Annotated[str, Header()] = ""
    ) -> Response:
        """Try once more to start a server that failed, because its visitor asks; then back to where they were."""
        await service.retries.retry(_host(lair_source))
        return Response(status_code=303, headers={"Location": safe_path(to), "Cache-Control": "no-store"})

    @router.get("/visitor/events", response_class=Response)
    async def events(_: Annotated[Identity, Depends(node)], lair_source: Annotated[str, Header()] = "") -> Response:
        """Tell a waiting page how far its server is, as an event stream."""
        return EventStream(_progress(service, _host(lair_source)), service.closing)

    return router


def _host(source: str) -> str:
    if not source:
        raise InvalidInput("Lair-Source: the host is missing.")
    return normalise_host(source)


def _answer(outcome: Outcome) -> Response:
    headers = {"Lair-State": outcome.state, "Cache-Control": "no-store"}
    if outcome.retry_after is not None:
        headers["Retry-After"] = str(max(1, round(outcome.retry_after)))
    if outcome.result is not None:
        return JSONResponse(outcome.result.model_dump(), headers=headers)
    if outcome.status < 400:
        return JSONResponse({"state": outcome.state}, status_code=outcome.status, headers=headers)
    problem = from_problem(outcome.status, {**outcome.extra, "detail": outcome.detail, "state": outcome.state})
    return JSONResponse(
        {**problem.problem(), "status": outcome.status},
        status_code=outcome.status,
        headers=headers,
        media_type=PROBLEM_JSON,
    )


def _tell(server: Server | None) -> bytes:
    state = pages.state_of(server)
    told = {
        "state": server.state if server is not None and state == "starting" else state,
        "stage": pages.stage_of(server) if server is not None else "",
        "go": state != "starting" or (server is not None and server.state == "awake"),
    }
    return event("state", told)


async def _progress(service: HemeraService, host: str) -> AsyncGenerator[bytes, None]:
    """Give the state of a host's server whenever it changes."""
    loop = asyncio.get_running_loop()
    end, told = loop.time() + LONGEST_STREAM, b""
    yield b"retry: 500\n\n"
    try:
        await service.directory.find(host)
    except LairError:
        return
    while (left := end - loop.time()) > 0:
        now = _tell(service.directory.at(host))
        if now != told:
            told = now
            yield now
        else:  # nothing has changed since it was looked at: not even while that was being sent
            await service.directory.changed(left)
