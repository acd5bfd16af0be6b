"""What all of Hemera's endpoints share: who may ask, for which host, and how the end of a wake is answered."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable

from fastapi import Request
from fastapi.responses import JSONResponse

from sourcelair.auth import Identity
from sourcelair.auth.http import Authenticate
from sourcelair.errors import PROBLEM_JSON, Forbidden, InvalidInput, from_problem
from sourcelair.hemera.waker import Outcome
from sourcelair.names import normalise_host


def for_nodes(authenticate: Authenticate) -> Callable[[Request], Awaitable[Identity]]:
    """Return the dependency that lets only proxy nodes in."""

    async def node(request: Request) -> Identity:
        identity = authenticate(request)
        if identity.kind not in {"waker", "service", "admin"}:
            raise Forbidden("This is for proxy nodes: it needs their token.")
        return identity

    return node


def host_of(source: str) -> str:
    """Return the host that a node names, in its normal form; with the path where it is a path's route.

    Servers have hosts only, so nothing is ever found at a path.

    Raises:
        InvalidInput: there is none.
    """
    if not source:
        raise InvalidInput("Lair-Source: the host is missing.")
    host, slash, path = source.partition("/")
    return normalise_host(host) + slash + path


def answer(outcome: Outcome) -> JSONResponse:
    """Return the answer that tells how a wake ended."""
    headers = {"Lair-State": outcome.state, "Cache-Control": "no-store"}
    if outcome.retry_after is not None:
        headers["Retry-After"] = str(max(1, math.ceil(outcome.retry_after)))
    if outcome.result is not None:
        return JSONResponse(outcome.result.model_dump(), headers=headers)
    if outcome.status < 400:
        told = {"state": outcome.state, "place": outcome.place}
        return JSONResponse(told, status_code=outcome.status, headers=headers)
    problem = from_problem(outcome.status, {**outcome.extra, "detail": outcome.detail, "state": outcome.state})
    return JSONResponse(
        {**problem.problem(), "status": outcome.status},
        status_code=outcome.status,
        headers=headers,
        media_type=PROBLEM_JSON,
    )
