"""Waking without waiting, keeping awake, how long wakes take, and what instances say of themselves."""

# Annotations are evaluated at once here (no `from __future__`): FastAPI can't find a closure's names in their text.

from typing import Annotated

from fastapi import APIRouter, Depends, Response

from sourcelair.auth import Identity
from sourcelair.auth.http import Authenticate, dependency
from sourcelair.client.servers import Busy, BusyRequest, ExtendRequest, Server, StartRequest, WakeReport
from sourcelair.servers import asking, keeping, reports
from sourcelair.servers.answers import NOT_STARTED, ONE, Answers, answer
from sourcelair.servers.service import ServersService

POKE = "poke"
"""The cause of a start that somebody asked for as a visitor would: it waits for the back-off."""

ASLEEP: Answers = {409: {"description": "It is not awake: nothing is to be kept awake."}}
GONE: Answers = {
    404: {"description": "No server has this instance any more."},
    409: {"description": "It is being stopped already."},
}


def add_keeping(router: APIRouter, service: ServersService, authenticate: Authenticate) -> None:
    """Add these paths."""
    who = Depends(dependency(authenticate))

    @router.post(f"{ONE}/wake", status_code=202, response_model=Server, responses=NOT_STARTED)
    async def wake(owner: str, project: str, identity: Annotated[Identity, who]) -> Response:
        """Wake it as a visitor would, and answer at once. 503 while it may not be tried again, 409 if disabled."""
        identity.require_write(owner)
        worker = service.worker(owner, project)
        return answer(await asking.start(worker, StartRequest(cause=POKE), 0, actor=identity.actor), 202)

    @router.post(f"{ONE}/extend", response_model=Server, responses=ASLEEP)
    async def extend(owner: str, project: str, body: ExtendRequest, identity: Annotated[Identity, who]) -> Response:
        """Keep it awake for so many seconds from now, used or not; 0 takes that back. 409 where it is not awake.

        It never ends sooner than somebody asked for before.
        """
        identity.require_write(owner)
        return answer(await keeping.extend(service.worker(owner, project), body.seconds))

    @router.get(f"{ONE}/report")
    async def report(owner: str, project: str, identity: Annotated[Identity, who]) -> WakeReport:
        """Return how long its cold starts took, in milliseconds after they were asked for."""
        identity.require_read(owner)
        return await reports.report(service.worker(owner, project))

    @router.post("/api/instance/busy", responses=GONE)
    async def busy(body: BusyRequest, identity: Annotated[Identity, who]) -> Busy:
        """Say, as the app, that it is busy for so many seconds from now and must not sleep; 0: not any more.

        The token is the `LAIR_TOKEN` of the instance's environment, good for this alone; `LAIR_API` is the base URL.
        """
        instance = identity.require_instance()
        worker = service.worker_of(instance)
        return Busy(busy_until=await keeping.busy(worker, instance, body.seconds))
