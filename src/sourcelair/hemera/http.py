"""Hemera over HTTP: the waker contract for proxy nodes, and what they pass on for visitors."""

# Annotations are evaluated at once here (no `from __future__`): FastAPI can't find a closure's names in their text.

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse

from sourcelair.auth import Identity
from sourcelair.auth.http import Authenticate
from sourcelair.client.waker import WakeRequest, WakeResult
from sourcelair.errors import PROBLEM_JSON, Forbidden, from_problem
from sourcelair.hemera.http_page import create_page_router, host_of
from sourcelair.hemera.service import HemeraService
from sourcelair.hemera.waker import Outcome


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
        return _answer(await service.waker.wake(body.model_copy(update={"source": host_of(body.source)})))

    router.include_router(create_page_router(service, node))
    return router


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
