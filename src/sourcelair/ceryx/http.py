"""Ceryx over HTTP: `/api/routes/` as the original Ceryx had it, and what was added to it."""

# Annotations are evaluated at once here (no `from __future__`): FastAPI can't find a closure's names in their text.

import re
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse
from pydantic import Field
from starlette.convertors import StringConvertor, register_url_convertor

from sourcelair.auth import Identity
from sourcelair.auth.http import Authenticate
from sourcelair.bodies import LARGE, SMALL, WithoutExtras, parse, read_json, schema_of, take_list
from sourcelair.ceryx.http_lists import create_lists_router
from sourcelair.ceryx.http_nodes import create_nodes_router
from sourcelair.ceryx.models import show_route
from sourcelair.ceryx.routes import MAX_BATCH
from sourcelair.ceryx.service import CeryxService
from sourcelair.ceryx.sources import clean_source
from sourcelair.client.ceryx import BatchResult, Route, RouteWrite
from sourcelair.errors import (
    BadRequest,
    InvalidInput,
    NotFound,
    PreconditionFailed,
)
from sourcelair.lean import LeanRoute

_ETAG = re.compile(r'(?:W/)?"([0-9]{1,19})"')


class SourceConvertor(StringConvertor):
    """A source in a path: a host, and what may follow it.

    Servers decode a path before anybody looks at it, so a slash of the source may be escaped or not.
    """

    regex = "[^/].*"


register_url_convertor("source", SourceConvertor())


class Batch(WithoutExtras):
    """Body of `POST /api/routes:batch`."""

    managed_by: str | None = None
    writes: list[RouteWrite] = Field(default_factory=list, max_length=MAX_BATCH)


def create_router(service: CeryxService, authenticate: Authenticate) -> APIRouter:
    """Return all of Ceryx's API.

    Args:
        service: does the work.
        authenticate: tells who asks.
    """
    router = _routes_router(service, authenticate)
    router.routes += create_lists_router(service, authenticate).routes
    router.routes += create_nodes_router(service, authenticate).routes
    return router


def _routes_router(service: CeryxService, authenticate: Authenticate) -> APIRouter:
    router = APIRouter(tags=["routes"], route_class=LeanRoute)

    async def reader(request: Request) -> Identity:
        identity = authenticate(request)
        identity.require_read()
        return identity

    async def writer(request: Request) -> Identity:
        identity = authenticate(request)
        identity.require_admin()
        return identity

    async def store(identity: Identity, request: Request, source: str, route: Route | None, status: int) -> Response:
        expect = await _expected(service, request, source)
        result, writes = await service.write(identity, [RouteWrite(source=source, route=route, expect=expect)])
        headers = {"Lair-Served": "true" if result.served else "false"}
        stored = writes[0].route
        if stored is None:
            return Response(status_code=status, headers=headers)
        headers["ETag"] = f'"{result.revision}"'
        return JSONResponse(show_route(stored), status_code=status, headers=headers)

    async def create_route(request: Request, identity: Annotated[Identity, Depends(writer)]) -> Response:
        """Create a route, or overwrite the one of that source."""
        route = parse(Route, await read_json(request, SMALL))
        return await store(identity, request, route.source, route, 201)

    async def get_route(source: str, _: Annotated[Identity, Depends(reader)]) -> Response:
        """Return one route."""
        route = await service.routes.get(source)
        return JSONResponse(show_route(route), headers={"ETag": f'"{route.revision}"'})

    async def put_route(source: str, request: Request, identity: Annotated[Identity, Depends(writer)]) -> Response:
        """Overwrite the route of that source, or create it."""
        body = await read_json(request, SMALL)
        if not isinstance(body, dict):
            raise InvalidInput("The body must be a JSON object.")
        route = parse(Route, {"source": source, **body})
        if clean_source(route.source) != clean_source(source):
            raise InvalidInput(f"source: the body says {route.source[:80]!r}, and the path {source[:80]!r}.")
        return await store(identity, request, source, route, 200)

    async def delete_route(source: str, request: Request, identity: Annotated[Identity, Depends(writer)]) -> Response:
        """Delete the route of that source; 204 too where there is none."""
        try:
            source = clean_source(source)
        except InvalidInput:
            return Response(status_code=204)  # what can't be a host has no route either
        return await store(identity, request, source, None, 204)

    async def write_batch(request: Request, identity: Annotated[Identity, Depends(writer)]) -> Response:
        """Do all writes or none, at one revision."""
        batch = await _read_batch(request)
        result, _ = await service.write(identity, batch.writes, batch.managed_by)
        return JSONResponse(result.model_dump())

    router.add_api_route(
        "/api/routes:batch",
        write_batch,
        methods=["POST"],
        response_class=Response,
        openapi_extra=schema_of(Batch),
        responses={200: {"model": BatchResult}},
    )
    one = "/api/routes/{source:source}/"
    _add(
        router, "POST", "/api/routes/", create_route,
        status_code=201, openapi_extra=schema_of(Route), responses={201: {"model": Route}},
    )  # fmt: skip
    _add(router, "GET", one, get_route, responses={200: {"model": Route}})
    _add(router, "PUT", one, put_route, openapi_extra=schema_of(Route), responses={200: {"model": Route}})
    _add(router, "DELETE", one, delete_route, status_code=204)
    return router


async def _read_batch(request: Request) -> Batch:
    body = await read_json(request, LARGE)
    writes = await take_list(body, "writes", RouteWrite, MAX_BATCH)
    return parse(Batch, body).model_copy(update={"writes": writes})


def _add(router: APIRouter, method: str, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
    """Serve a path with its last slash, as the original does, and without it."""
    options = {"methods": [method], "response_class": Response, **options}
    router.add_api_route(path, endpoint, **options)
    router.add_api_route(path.rstrip("/"), endpoint, include_in_schema=False, **options)


async def _expected(service: CeryxService, request: Request, source: str) -> int | None:
    """Return the revision that `If-Match` or `If-None-Match: *` asks for; None where there is no condition."""
    if request.headers.get("if-none-match", "").strip() == "*":
        return 0
    header = request.headers.get("if-match")
    if header is None:
        return None
    if header.strip() == "*":
        try:
            return (await service.routes.get(source)).revision
        except NotFound as error:
            raise PreconditionFailed(error.detail, source=source, revision=0) from error
    match = _ETAG.fullmatch(header.strip())
    if match is None:
        raise BadRequest('If-Match: send one revision as the ETag gave it, such as "42", or *.')
    return int(match[1])
