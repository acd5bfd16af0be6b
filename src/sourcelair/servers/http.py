"""The SourceLair API over HTTP: `/api/servers/` and `/api/events`."""

# Annotations are evaluated at once here (no `from __future__`): FastAPI can't find a closure's names in their text.

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from itertools import islice
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from sourcelair.auth import Identity
from sourcelair.auth.http import Authenticate, dependency
from sourcelair.bodies import SMALL, parameters_of, parse, query_of, read_json, schema_of
from sourcelair.client.servers import (
    Server,
    ServerEvent,
    ServerInput,
    SleepRequest,
    SleepResult,
    StartRequest,
)
from sourcelair.errors import HistoryCompacted, LairError
from sourcelair.lean import LeanRoute
from sourcelair.servers import asking
from sourcelair.servers.answers import NOT_STARTED, ONE, Answers
from sourcelair.servers.answers import answer as _answer
from sourcelair.servers.answers import expected as _expected
from sourcelair.servers.events import follow
from sourcelair.servers.http_keeping import add_keeping
from sourcelair.servers.http_owners import add_owners
from sourcelair.servers.service import ServersService
from sourcelair.streams import EventStream, Stream, event

LONGEST_WAIT = 300.0
"""Seconds that one request may wait."""

AT_ONCE = 20
"""Servers of a list that are shown without giving way to others: less than a millisecond."""

Wait = Annotated[float, Query(ge=0, le=LONGEST_WAIT, allow_inf_nan=False, description="Seconds to wait for it.")]


class Waiting(BaseModel):
    """Query of a start: seconds to wait for it."""

    wait: float = Field(default=0, ge=0, le=LONGEST_WAIT, allow_inf_nan=False, description="Seconds to wait for it.")


PUT_ANSWERS: Answers = {
    201: {"model": Server, "description": "It was created."},
    409: {"description": "A host is another's, or the server is just being removed."},
    412: {"description": "It exists (`If-None-Match: *`), or is at another revision (`If-Match`)."},
}
ON_ITS_WAY = {"model": Server, "description": "It is still on its way."}


def create_router(service: ServersService, authenticate: Authenticate) -> APIRouter:
    """Return the SourceLair API.

    Args:
        service: does the work.
        authenticate: tells who asks.
    """
    router = APIRouter(tags=["servers"], route_class=LeanRoute)
    _add_actions(router, service, authenticate)  # a start is what is waited for: its path is tried first
    _add_servers(router, service, authenticate)
    _add_reading(router, service, authenticate)
    add_keeping(router, service, authenticate)
    add_owners(router, service, authenticate)
    return router


def _add_servers(router: APIRouter, service: ServersService, authenticate: Authenticate) -> None:
    who = Depends(dependency(authenticate))

    @router.get("/api/servers", include_in_schema=False)
    @router.get("/api/servers/")
    async def list_servers(
        identity: Annotated[Identity, who],
        host: str | None = None,
        prefix: Annotated[str, Query(description="How their names begin: `OWNER/` for all of an owner.")] = "",
    ) -> Response:
        """List the servers that the token may see; with `host`, the one that answers there, or none."""
        identity.require_some_reading()
        servers = service.select(identity, host, prefix)
        return StreamingResponse(_array(servers), media_type="application/json")

    @router.put(ONE, include_in_schema=False, response_model=Server)
    @router.put(f"{ONE}/", response_model=Server, responses=PUT_ANSWERS)
    async def put_server(
        owner: str, project: str, body: ServerInput, request: Request, identity: Annotated[Identity, who]
    ) -> Response:
        """Create a server (201), or change it (200). With `If-None-Match: *` one that exists is a 412."""
        identity.require_write(owner)
        server, created = await service.put(identity, owner, project, body, _expected(request))
        return _answer(server, 201 if created else 200)

    @router.get(ONE, include_in_schema=False, response_model=Server)
    @router.get(f"{ONE}/", response_model=Server)
    async def get_server(owner: str, project: str, identity: Annotated[Identity, who]) -> Response:
        """Return one server."""
        identity.require_read(owner)
        return _answer(service.worker(owner, project).show())

    @router.delete(ONE, include_in_schema=False, status_code=204)
    @router.delete(f"{ONE}/", status_code=204, responses={202: {"description": "It goes on being stopped."}})
    async def delete_server(owner: str, project: str, identity: Annotated[Identity, who], wait: Wait = 60) -> Response:
        """Stop a server and forget it: its record, hosts and log, never its directory. 202 if that takes longer."""
        identity.require_write(owner)
        done = await asking.remove(service.worker(owner, project), wait, actor=identity.actor)
        return Response(status_code=204 if done else 202)


def _add_actions(router: APIRouter, service: ServersService, authenticate: Authenticate) -> None:
    who = Depends(dependency(authenticate))

    @router.post(
        f"{ONE}/start",
        response_model=Server,
        responses={202: ON_ITS_WAY, **NOT_STARTED},
        openapi_extra={**schema_of(StartRequest, required=False), **parameters_of(Waiting)},
    )
    async def start(
        owner: str,
        project: str,
        identity: Annotated[Identity, who],
        asked: Annotated[StartRequest, Depends(_start_request)],
        waiting: Annotated[Waiting, Depends(query_of(Waiting))],
    ) -> Response:
        """Start it, no more than once, and wait until it is awake. 503 if the start failed, 409 if it is disabled."""
        identity.require_write(owner)
        worker = service.worker(owner, project)
        server = await asking.start(worker, asked, waiting.wait, actor=asking.actor_of(identity, asked))
        return _answer(server, 200 if server.state == "awake" and not worker.stop_asked else 202)

    @router.post(f"{ONE}/stop", response_model=Server)
    async def stop(owner: str, project: str, identity: Annotated[Identity, who], wait: Wait = 0) -> Response:
        """Put it to sleep, whoever visits. A visit wakes it again."""
        identity.require_write(owner)
        return _answer(await asking.stop(service.worker(owner, project), wait, actor=identity.actor))

    @router.post(f"{ONE}/restart", response_model=Server, responses=NOT_STARTED)
    async def restart(owner: str, project: str, identity: Annotated[Identity, who], wait: Wait = 0) -> Response:
        """Stop it, and start a new instance."""
        identity.require_write(owner)
        return _answer(await asking.restart(service.worker(owner, project), wait, actor=identity.actor))

    @router.post(f"{ONE}/sleep")
    async def sleep(owner: str, project: str, body: SleepRequest, identity: Annotated[Identity, who]) -> SleepResult:
        """Stop it, or let it doze, if nobody uses it: it names the instance and the totals that the sleeper saw."""
        identity.require_write(owner)
        return await asking.sleep(service.worker(owner, project), body)


def _add_reading(router: APIRouter, service: ServersService, authenticate: Authenticate) -> None:
    who = Depends(dependency(authenticate))

    @router.get(f"{ONE}/logs", response_class=Response)
    async def read_logs(
        *,
        owner: str,
        project: str,
        identity: Annotated[Identity, who],
        lines: Annotated[int, Query(ge=0, le=100_000)] = 100,
        follow: bool = False,
        newest: Annotated[bool, Query(description="With `follow`: only what the newest instance wrote.")] = False,
    ) -> Response:
        """Return the last lines of its log; with `follow`, all that comes too, until the server is removed."""
        identity.require_read(owner)
        worker = service.worker(owner, project)
        log = service.context.log(worker.record)
        begin = worker.log_begin if newest else None
        if newest and begin is None:  # nobody knows where it began: what there is could be another's
            lines = 0
        source = worker.driver.logs(log, lines=lines, follow=follow, until=worker.gone, begin=begin)
        return Stream(source, service.closing)

    @router.get("/api/events", response_class=Response, responses={200: {"model": ServerEvent}})
    async def events(
        request: Request,
        identity: Annotated[Identity, who],
        from_: Annotated[int | None, Query(alias="from", ge=0, description="The first revision wanted.")] = None,
    ) -> Response:
        """Follow all changes as an event stream; its ids are revisions, for `Last-Event-ID`.

        Of several events of one revision the last has the id.

        410 when the history since then is gone: list the servers again.
        """
        identity.require_some_reading()
        last = request.headers.get("last-event-id", "")
        after = int(last) if last.isdigit() else None if from_ is None else from_ - 1
        return EventStream(_events(await follow(service.context, identity, after)), service.closing)


async def _start_request(request: Request) -> StartRequest:
    return parse(StartRequest, await read_json(request, SMALL, empty={}))


async def _array(servers: Iterator[Server]) -> AsyncIterator[bytes]:
    """Show and encode servers piece by piece: all at once would stall everybody else."""
    before = b"["
    while piece := [server.model_dump_json().encode() for server in islice(servers, AT_ONCE)]:
        yield before + b",\n".join(piece)
        before = b",\n"
        await asyncio.sleep(0)
    yield b"[]" if before == b"[" else b"]"


async def _events(changes: AsyncGenerator[list[ServerEvent], None]) -> AsyncGenerator[bytes, None]:
    try:
        async for together in changes:
            for one in together:  # only the last has the id: whoever came to an earlier one gets all of them again
                yield event("server", one.model_dump_json(), str(one.revision) if one is together[-1] else None)
    except HistoryCompacted as error:
        yield event("compacted", error.detail)
    except LairError as error:
        yield event("error", error.detail)
    finally:
        await changes.aclose()
