"""The HTTP application of `lair up`: the APIs of all three services, and what monitors ask for."""

# Annotations are evaluated at once here (no `from __future__`): FastAPI can't find a closure's names in their text.

import functools
from collections.abc import Awaitable, Callable
from itertools import zip_longest
from typing import Annotated

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.responses import JSONResponse
from fastapi_offline import FastAPIOffline
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sourcelair import __version__
from sourcelair.auth import Identity
from sourcelair.auth.http import Authenticate
from sourcelair.cli.system.openapi import describe
from sourcelair.errors import TooLarge, Unavailable, install_error_handlers, problem_response
from sourcelair.telemetry import METRICS

MAX_BODY = 1 << 20
"""Bytes of a request's body, but for the paths of `OWN_LIMITS`."""

OWN_LIMITS = ("/api/routes:batch", "/api/nodes/", "/api/activity")
"""Paths whose service takes larger bodies, and limits them itself."""

DESCRIPTION = "Ceryx (routes), the SourceLair API (servers), Hemera (wakes) and tokens, on one port."


def create_app() -> FastAPI:
    """Return the application without any service in it."""
    # As FastAPI(...), but for /docs: its scripts come from here, and not from a CDN.
    app = FastAPIOffline(title="SourceLair", version=__version__, description=DESCRIPTION)
    document = functools.cache(lambda: describe(app))  # made when it is first asked for: all routes are there by then
    app.openapi = document  # type: ignore[method-assign] # FastAPI's own way to do this
    install_error_handlers(app)
    app.add_middleware(BodyLimit)
    return app


def serve(app: FastAPI, *routers: APIRouter) -> None:
    """Let the application answer what the routers answer.

    Their routes become its own, in turn, the first of each router first. They are tried one after the other; of routers
    that are included FastAPI tries all of them twice, which took a third of the time of a request.
    """
    turns = zip_longest(*(router.routes for router in routers))
    app.router.routes[:0] = [route for turn in turns for route in turn if route is not None]


def gate(name: str, is_open: Callable[[], bool], authenticate: Authenticate) -> Authenticate:
    """Return an `authenticate` that answers 503 while its service is starting."""

    def check(request: Request) -> Identity:
        if not is_open():
            raise Unavailable(f"{name} is starting.", retry_after=1)
        return authenticate(request)

    return check


def monitoring_router(
    authenticate: Authenticate,
    readiness: Callable[[], Awaitable[dict[str, bool]]],
    stop: Callable[[], None],
) -> APIRouter:
    """Return what is about the whole system.

    Args:
        authenticate: tells who asks.
        readiness: returns the parts and whether each is ready.
        stop: ends the system, servers and NGINX too.
    """
    router = APIRouter(tags=["system"])

    @router.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Answer while the process is alive."""
        return {"status": "ok", "version": __version__}

    @router.get("/readyz")
    async def readyz() -> JSONResponse:
        """Answer 200 once a visit would be served."""
        parts = await readiness()
        ready = all(parts.values())
        return JSONResponse({"ready": ready, "parts": parts}, status_code=200 if ready else 503)

    @router.get("/metrics", response_class=Response)
    async def metrics(identity: Annotated[Identity, Depends(authenticate)]) -> Response:
        """Return all metrics in Prometheus' text format."""
        identity.require_read()
        return Response(generate_latest(METRICS), media_type=CONTENT_TYPE_LATEST)

    @router.post("/api/shutdown", status_code=202)
    async def shutdown(identity: Annotated[Identity, Depends(authenticate)]) -> dict[str, str]:
        """Stop everything, as Ctrl-C does: servers and NGINX too."""
        identity.require_admin()
        stop()
        return {"status": "stopping"}

    return router


class BodyLimit:
    """Refuses a body that is too large while it is read, so that no more of it is ever kept.

    Args:
        app: the next application.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, with a `receive` that counts."""
        if scope["type"] != "http" or scope["path"].startswith(OWN_LIMITS):
            await self._app(scope, receive, send)
            return
        message = f"The body is larger than {MAX_BODY >> 20} MiB."
        declared = Request(scope).headers.get("content-length", "")
        if declared.isdigit() and int(declared) > MAX_BODY:
            await problem_response(TooLarge(message))(scope, receive, send)
            return
        size = 0

        async def counted() -> Message:
            nonlocal size
            part = await receive()
            size += len(part.get("body", b""))
            if size > MAX_BODY:
                # FastAPI turns any other error in here into a 400.
                raise HTTPException(413, detail=message)
            return part

        await self._app(scope, counted, send)
