"""Ceryx over HTTP, the part for whoever reads many routes: lists, their pages, and the watch."""

# Annotations are evaluated at once here (no `from __future__`): FastAPI can't find a closure's names in their text.

from collections.abc import AsyncGenerator
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field
from pydantic_core import to_json

from sourcelair.auth import Identity
from sourcelair.auth.http import Authenticate
from sourcelair.ceryx.lists import MAX_LIMIT, Cursor, Wanted
from sourcelair.ceryx.models import ROUTES, show_change
from sourcelair.ceryx.service import CeryxService
from sourcelair.client.ceryx import Route
from sourcelair.errors import InvalidInput, LairError
from sourcelair.pacing import in_steps
from sourcelair.store.base import Change
from sourcelair.streams import EventStream, event

_JSON = "application/json"

_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "model": list[Route],
        "headers": {
            "Lair-Revision": {"schema": {"type": "integer"}, "description": "When all of the list was read."},
            "Link": {"schema": {"type": "string"}, "description": 'With `limit`: the next page, as `rel="next"`.'},
        },
    },
    400: {"description": "The cursor is none that a list gave."},
    410: {"description": "The revision of the cursor, or of the watch, is no longer kept."},
}


class ListQuery(BaseModel):
    """Query of `GET /api/routes/`."""

    prefix: str = Field("", description="How the sources begin.")
    managed_by: str | None = Field(None, description="Whose routes: of one manager.")
    revisions: bool = Field(False, description="Add to each route the `revision` of its last change.")
    limit: int | None = Field(None, ge=1, le=MAX_LIMIT, description="Routes of one page; all, where it is left out.")
    cursor: str | None = Field(None, description="Of the page before: its `Link` has it.")
    watch: bool = Field(False, description="An event stream of changes instead of a list.")
    from_: int | None = Field(None, alias="from", ge=0, description="First revision of a watch; from now on, if none.")


def create_lists_router(service: CeryxService, authenticate: Authenticate) -> APIRouter:
    """Return `GET /api/routes/`."""
    router = APIRouter(tags=["routes"])

    async def reader(request: Request) -> Identity:
        identity = authenticate(request)
        identity.require_read()
        return identity

    @router.get("/api/routes", include_in_schema=False, response_class=Response)
    @router.get("/api/routes/", response_class=Response, responses=_ANSWERS)
    async def list_routes(_: Annotated[Identity, Depends(reader)], asked: Annotated[ListQuery, Query()]) -> Response:
        """List all routes as a JSON array, read at the revision that the header `Lair-Revision` gives.

        With `prefix` only those whose source begins so, with `managed_by` only those of one manager.

        With `limit` in pages: the header `Link` names the next one, as long as there is one. All of them are read at
        the revision of the first; 410 when that is no longer kept.

        With `watch=true`: an event stream of all changes from the revision `from` on (from now on, where it is left
        out). 410 when that history is gone.
        """
        prefix = asked.prefix.lower()  # as sources are stored
        if asked.watch:
            _refuse_in_watch(asked)
            return EventStream(_events(await _watch(service, asked.from_), prefix), service.closing)
        wanted = Wanted(prefix, asked.managed_by, asked.revisions)
        if asked.limit is not None:
            return await _page(service, wanted, asked.limit, asked.cursor)
        if asked.cursor is not None:
            raise InvalidInput("cursor: say the limit of its list, too.")
        revision, pieces = await service.lists.stream(wanted)
        return StreamingResponse(pieces, media_type=_JSON, headers={"Lair-Revision": str(revision)})

    return router


async def _page(service: CeryxService, wanted: Wanted, limit: int, cursor: str | None) -> Response:
    """Answer one page of a list; its `Link` (RFC 8288) leads to the next one, relative to wherever this one was."""
    after = None if cursor is None else Cursor.decode(cursor, wanted.prefix)
    page = await service.lists.page(wanted, limit, after)
    headers = {"Lair-Revision": str(page.revision)}
    if page.following is not None:
        said = {"prefix": wanted.prefix, "managed_by": wanted.manager, "revisions": wanted.revisions and "true"}
        query = {name: value for name, value in said.items() if value}
        query |= {"limit": str(limit), "cursor": page.following.encode()}
        headers["Link"] = f'<?{urlencode(query)}>; rel="next"'
    return Response(page.content, media_type=_JSON, headers=headers)


def _refuse_in_watch(asked: ListQuery) -> None:
    for name in ("managed_by", "limit", "cursor"):
        if getattr(asked, name) is not None:
            raise InvalidInput(f"{name}: a watch tells the changes of all routes, or of a prefix; leave this out.")


async def _watch(service: CeryxService, from_: int | None) -> AsyncGenerator[Change, None]:
    return await service.routes.watch(await service.revision() + 1 if from_ is None else max(from_, 1))


async def _encode(change: Change, prefix: str = "") -> str:
    """Encode all routes' changes of a revision, in steps: it is one event (`RouteChanges`), however many they are."""
    wanted = ROUTES + prefix
    parts = [to_json(show_change(one)) async for one in in_steps(change.events) if one.key.startswith(wanted)]
    return (b'{"revision":%d,"changes":[%s]}' % (change.revision, b",".join(parts))).decode()


async def _events(changes: AsyncGenerator[Change, None], prefix: str) -> AsyncGenerator[bytes, None]:
    """Encode a watch. A revision that changed nothing with this prefix is told, too: it says how far the reader is.

    An error in its midst is told as an event, and ends it.
    """
    try:
        async for change in changes:
            yield event("changes", await _encode(change, prefix), str(change.revision))
    except LairError as error:
        yield event("error", error.problem())
    finally:
        await changes.aclose()
