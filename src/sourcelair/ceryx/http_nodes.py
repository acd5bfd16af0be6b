"""Ceryx over HTTP, the part for proxy nodes and for those who need their proofs and counts."""

# Annotations are evaluated at once here (no `from __future__`): FastAPI can't find a closure's names in their text.

from collections.abc import AsyncGenerator
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field, TypeAdapter
from pydantic_core import to_json

from sourcelair.auth import Identity
from sourcelair.auth.http import Authenticate
from sourcelair.bodies import (
    LARGE,
    WithoutExtras,
    parameters_of,
    parse,
    parse_many,
    query_of,
    read_json,
    schema_of,
    take_list,
)
from sourcelair.ceryx.activity import activity
from sourcelair.ceryx.counts import MAX_INSTANCES
from sourcelair.ceryx.service import CeryxService
from sourcelair.ceryx.validation import check_identifier
from sourcelair.ceryx.withdrawals import AskEvent, Until
from sourcelair.client.ceryx import Acknowledgement, Activity, InstanceCounts, Node, NodeReport, Refusal, Withdrawal
from sourcelair.lean import LeanRoute
from sourcelair.streams import EventStream, event, while_connected

MAX_WAIT = 600.0
"""Seconds that a long poll may ask for."""

MAX_ACKNOWLEDGEMENTS = 10_000
"""Acknowledgements in one request; an agent sends a tenth of that."""

MAX_REFUSED = 10_000
"""Refused routes in one report; an agent names a tenth of that."""

_TEXT: TypeAdapter[str] = TypeAdapter(str)


class ActivityRequest(WithoutExtras):
    """Body of `POST /api/activity`."""

    instances: list[str] = Field(max_length=MAX_INSTANCES)


class WithdrawalQuery(BaseModel):
    """Query of `GET /api/instances/{id}/withdrawal`."""

    revision: int = Field(ge=0)
    until: Until = "acknowledged"
    wait: float = Field(default=0.0, ge=0, le=MAX_WAIT)


def create_nodes_router(service: CeryxService, authenticate: Authenticate) -> APIRouter:
    """Return `/api/nodes/`, `/api/instances/{id}/withdrawal` and `/api/activity`."""
    router = APIRouter(tags=["nodes"], route_class=LeanRoute)

    async def reader(request: Request) -> Identity:
        identity = authenticate(request)
        identity.require_read()
        return identity

    async def administrator(request: Request) -> Identity:
        identity = authenticate(request)
        identity.require_admin()
        return identity

    @router.get("/api/nodes", include_in_schema=False)
    @router.get("/api/nodes/")
    async def list_nodes(_: Annotated[Identity, Depends(reader)]) -> list[Node]:
        """List the registered proxy nodes."""
        return service.nodes.show(service.routes.revision)

    @router.put("/api/nodes/{node}", include_in_schema=False)
    @router.put("/api/nodes/{node}/")
    async def register_node(node: str, _: Annotated[Identity, Depends(administrator)], home: str | None = None) -> Node:
        """Register a node, durably. One that is registered already stays as it is.

        `home` is an id of where it keeps what it knows: 409 for another node that has this name.
        """
        if home is not None:
            check_identifier("home", home)
        return service.nodes.view(await service.nodes.register(check_identifier("node", node), home))

    @router.delete("/api/nodes/{node}", include_in_schema=False, status_code=204)
    @router.delete("/api/nodes/{node}/", status_code=204)
    async def remove_node(node: str, _: Annotated[Identity, Depends(administrator)]) -> None:
        """Forget a node that is dead. What it had still to acknowledge counts as done."""
        await service.nodes.remove(node)

    @router.put(
        "/api/nodes/{node}/report", status_code=204, response_class=Response, openapi_extra=schema_of(NodeReport)
    )
    async def report(node: str, request: Request, _: Annotated[Identity, Depends(administrator)]) -> Response:
        """Take in how far a node is, and its changed counts. 404: it was removed, and must register anew."""
        body = await read_json(request, LARGE)
        counts = await take_list(body, "counts", InstanceCounts, MAX_INSTANCES)
        refused = await take_list(body, "refused", Refusal, MAX_REFUSED)
        head = parse(NodeReport, body)
        service.nodes.report(node, head.model_copy(update={"counts": counts, "refused": refused}))
        return Response(status_code=204)

    @router.get("/api/nodes/{node}/asks", response_class=Response)
    async def asks(node: str, _: Annotated[Identity, Depends(administrator)]) -> Response:
        """Stream what this node is asked to acknowledge: `ask` when somebody waits, `end` when nobody does any more."""
        service.nodes.get(node)
        return EventStream(_ask_events(service.withdrawals.asks(node)), service.closing)

    @router.post("/api/nodes/{node}/acknowledgements", status_code=204, response_class=Response)
    async def acknowledge(node: str, request: Request, _: Annotated[Identity, Depends(administrator)]) -> Response:
        """Take in answers to asks."""
        body = await read_json(request, LARGE)
        acknowledgements = await parse_many(Acknowledgement, body, "", MAX_ACKNOWLEDGEMENTS)
        service.withdrawals.acknowledge(node, acknowledgements)
        return Response(status_code=204)

    @router.get(
        "/api/instances/{instance}/withdrawal",
        responses={200: {"model": Withdrawal}},
        openapi_extra=parameters_of(WithdrawalQuery),
    )
    async def withdrawal(
        instance: str,
        request: Request,
        _: Annotated[Identity, Depends(reader)],
        asked: Annotated[WithdrawalQuery, Depends(query_of(WithdrawalQuery))],
    ) -> Response:
        """Tell how far every node has come with a withdrawal, once `until` is met, or after `wait` seconds."""
        check_identifier("instance", instance)
        waiting = service.withdrawals.wait(instance, asked.revision, asked.until, asked.wait)
        state = await while_connected(request, waiting)
        return Response() if state is None else JSONResponse(state.model_dump())

    @router.post("/api/activity", openapi_extra=schema_of(ActivityRequest), responses={200: {"model": list[Activity]}})
    async def read_activity(request: Request, _: Annotated[Identity, Depends(reader)]) -> Response:
        """Return the activity of instances on all nodes, in the order of the question."""
        body = await read_json(request, LARGE)
        instances = await take_list(body, "instances", _TEXT, MAX_INSTANCES)
        parse(ActivityRequest, body)
        found = activity(instances, service.nodes.all())
        return Response(to_json(found), media_type="application/json")

    return router


async def _ask_events(asks: AsyncGenerator[AskEvent, None]) -> AsyncGenerator[bytes, None]:
    try:
        async for name, ask in asks:
            yield event(name, ask.model_dump())
    finally:
        await asks.aclose()
