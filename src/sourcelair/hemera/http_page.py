"""Hemera for visitors, by way of their proxy node: the page, its progress, and the button for another try."""

# Annotations are evaluated at once here (no `from __future__`): FastAPI can't find a closure's names in their text.

from collections.abc import Awaitable, Callable
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse

from sourcelair.auth import Identity
from sourcelair.errors import LairError
from sourcelair.hemera.answers import host_of
from sourcelair.hemera.pages import builtin, facts
from sourcelair.hemera.pages.facts import Facts
from sourcelair.hemera.progress import progress, telling
from sourcelair.hemera.retries import safe_path
from sourcelair.hemera.service import HemeraService
from sourcelair.streams import EventStream


def create_page_router(service: HemeraService, node: Callable[[Request], Awaitable[Identity]]) -> APIRouter:
    """Return what proxy nodes ask for on behalf of visitors.

    Args:
        service: does the work.
        node: lets only proxy nodes pass.
    """
    router = APIRouter(prefix="/waker", tags=["waker"], dependencies=[Depends(node)])

    @router.get("/page", response_class=HTMLResponse)
    async def page(
        source: str,
        path: str = "/",
        state: Literal["rate-limited"] | None = None,
        retry_after: Annotated[int, Query(ge=1, le=3600)] = 5,
    ) -> Response:
        """Return the page for a visitor of a host: waiting, failed, switched off, or that they have to wait."""
        told = await _facts(service, host_of(source), path, retry_after if state else None)
        headers = {"Lair-State": told.state, "Retry-After": str(told.retry_after), "Cache-Control": "no-store"}
        html = await service.pages.render(told)
        if html is None:
            html = builtin.render(told)
            headers["Content-Security-Policy"] = builtin.POLICY
        return HTMLResponse(html, status_code=429 if told.state == "rate-limited" else 503, headers=headers)

    @router.post("/visitor/retry", status_code=303)
    async def retry(
        to: str = "/",
        lair_source: Annotated[str, Header()] = "",
        x_real_ip: Annotated[str | None, Header(max_length=64)] = None,
    ) -> Response:
        """Try once more to start a server that failed, because its visitor asks; then back to where they were."""
        await service.retries.retry(host_of(lair_source), x_real_ip)
        return Response(status_code=303, headers={"Location": safe_path(to), "Cache-Control": "no-store"})

    @router.get("/visitor/events", response_class=Response)
    async def events(lair_source: Annotated[str, Header()] = "") -> Response:
        """Tell a page how far its server is, as an event stream."""
        return EventStream(progress(service, host_of(lair_source)), service.closing)

    @router.get("/visitor/state", response_class=Response)
    async def state(lair_source: Annotated[str, Header()] = "") -> Response:
        """Tell once how far a server is: for pages that nobody looks at, and where no stream comes through."""
        host = host_of(lair_source)
        await service.directory.find(host)
        return JSONResponse(telling(service, host), headers={"Cache-Control": "no-store"})

    return router


async def _facts(service: HemeraService, host: str, path: str, limited: int | None) -> Facts:
    try:
        server = await service.directory.find(host)
    except LairError:  # nobody knows yet: a page that comes again
        return facts.waiting(None, host, path)
    if limited is not None:
        return facts.rate_limited(server, host, path, limited)
    state = facts.state_of(server)
    if server is not None and state == "starting":
        place = service.waker.place(server)
        return facts.waiting(server, host, path, place=place, elapsed=service.waits.elapsed(server))
    if server is not None:
        service.waits.over(server)
    if server is not None and state == "failed":
        return facts.failed(server, host, path)
    return facts.down(server, host, path)
