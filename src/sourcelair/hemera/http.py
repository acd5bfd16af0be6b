"""Hemera over HTTP: the waker contract for proxy nodes, and what they pass on for visitors."""

# Annotations are evaluated at once here (no `from __future__`): FastAPI can't find a closure's names in their text.

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from sourcelair.auth import Identity
from sourcelair.auth.http import Authenticate
from sourcelair.bodies import LARGE, parse, read_json, schema_of
from sourcelair.client.waker import WakeRequest, WakeResult
from sourcelair.hemera import http_time
from sourcelair.hemera.answers import answer, for_nodes, host_of
from sourcelair.hemera.http_page import create_page_router
from sourcelair.hemera.service import HemeraService
from sourcelair.hemera.waker import Outcome
from sourcelair.lean import LeanRoute


def create_router(service: HemeraService, authenticate: Authenticate) -> APIRouter:
    """Return Hemera's API: nearly all of it is for proxy nodes, which pass on what is for visitors.

    Args:
        service: does the work.
        authenticate: tells who asks.
    """
    router = APIRouter(prefix="/waker", tags=["waker"], route_class=LeanRoute)
    node = for_nodes(authenticate)

    @router.post(
        "/wake",
        responses={200: {"model": WakeResult}, 422: {"description": "Something in it is wrong."}},
        response_class=Response,
        openapi_extra=schema_of(WakeRequest),
    )
    async def wake(request: Request, _: Annotated[Identity, Depends(node)]) -> Response:
        """Wake the server of a host.

        200 it is ready, 202 it is still starting or queued, 403 it may not, 404, 429 too many from that address,
        503 it failed.
        """
        if not service.started:
            return answer(Outcome(202, "starting", retry_after=1))
        body = parse(WakeRequest, await read_json(request, LARGE))
        return answer(await service.waker.wake(body.model_copy(update={"source": host_of(body.source)})))

    router.routes += create_page_router(service, node).routes
    router.routes += http_time.create_router(service, authenticate).routes
    return router
