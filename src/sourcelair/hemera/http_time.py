"""Hemera over HTTP, for apps and their visitors: the time that a server has left, more of it, and waking it."""

# Annotations are evaluated at once here (no `from __future__`): FastAPI can't find a closure's names in their text.

from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query, Response
from fastapi.responses import JSONResponse

from sourcelair.auth import Identity
from sourcelair.auth.http import Authenticate, dependency
from sourcelair.client.waker import WakeRequest
from sourcelair.hemera.answers import answer, for_nodes, host_of
from sourcelair.hemera.service import HemeraService
from sourcelair.hemera.timeleft import TimeLeft
from sourcelair.hemera.waker import Outcome

POKE_WAIT = 0.5
"""Seconds for which somebody who only pokes is kept: a thaw, or a refusal, is quicker."""

OPEN = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Expose-Headers": "Lair-Sleeps-In, Lair-State, Retry-After",
    "Cache-Control": "no-store",
}
"""Pages of other hosts may ask and read too: nothing here is a secret, and no cookie is looked at."""

ONE = "/api/time-left/{owner}/{project}"


def create_router(service: HemeraService, authenticate: Authenticate) -> APIRouter:
    """Return what concerns the time left.

    Args:
        service: does the work.
        authenticate: tells who asks.
    """
    router = APIRouter(tags=["time left"])
    node, who = Depends(for_nodes(authenticate)), Depends(dependency(authenticate))
    source = Header(description="The host that the visitor asked.")

    @router.head("/waker/visitor/time-left", include_in_schema=False)
    @router.get("/waker/visitor/time-left", response_model=TimeLeft)
    async def time_left(_: Annotated[Identity, node], lair_source: Annotated[str, source] = "") -> Response:
        """Tell how long a host's server stays awake if nobody comes. Asking is no visit."""
        return _told(await service.timeleft.at(host_of(lair_source)))

    @router.post("/waker/visitor/extend", response_model=TimeLeft)
    async def extend(
        _: Annotated[Identity, node],
        seconds: Annotated[float, Query(gt=0, allow_inf_nan=False, description="From now.")],
        lair_source: Annotated[str, source] = "",
    ) -> Response:
        """Keep a host's server awake, used or not, for at most `longest_extension` seconds. 409 if it is not awake."""
        return _told(await service.timeleft.extend(host_of(lair_source), seconds))

    @router.post("/waker/visitor/wake", response_class=Response)
    async def wake(
        _: Annotated[Identity, node],
        lair_source: Annotated[str, source] = "",
        x_real_ip: Annotated[str | None, Header(max_length=64)] = None,
    ) -> Response:
        """Wake a host's server as a visit does, without waiting for it: 200 it is awake, 202 it is on its way."""
        if not service.started:
            return _open(answer(Outcome(202, "starting", retry_after=1)))
        request = WakeRequest(source=host_of(lair_source), node="", address=x_real_ip)
        outcome = await service.waker.wake(request, wait=POKE_WAIT)
        if outcome.status == 200:
            return _open(JSONResponse({"state": outcome.state, "place": None}, headers={"Lair-State": outcome.state}))
        return _open(answer(outcome))

    @router.get(ONE, include_in_schema=False, response_model=TimeLeft)
    @router.get(f"{ONE}/", response_model=TimeLeft)
    async def time_left_of(owner: str, project: str, identity: Annotated[Identity, who]) -> Response:
        """Tell how long a server stays awake if nobody comes."""
        identity.require_read(owner)
        return JSONResponse((await service.timeleft.named(owner, project)).model_dump())

    return router


def _told(left: TimeLeft) -> Response:
    headers = {"Lair-State": left.state}
    if left.seconds_left is not None:
        headers["Lair-Sleeps-In"] = str(int(left.seconds_left))
    return _open(JSONResponse(left.model_dump(), headers=headers))


def _open(response: Response) -> Response:
    response.headers.update(OPEN)
    return response
