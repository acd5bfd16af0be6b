"""Where a node has its routes from: Ceryx's API, or etcd itself, so that they come while no API runs."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Protocol, cast

from sourcelair.ceryx.models import ROUTES, decode_route, node_key, record_of
from sourcelair.ceryx.nodes import check_home
from sourcelair.client.ceryx import CeryxClient, RouteChange, RouteChanges, StoredRoute
from sourcelair.errors import HistoryCompacted
from sourcelair.pacing import in_steps
from sourcelair.store.base import Change, Page, Store

SILENCE = 45.0
"""Seconds without a byte, keep-alives included, after which a stream counts as broken."""


class RouteSource(Protocol):
    """All routes, by revision."""

    async def register(self, node: str, known: int | None) -> int:
        """Register a node, durably, and return the revision at which that was: a snapshot is taken after it.

        Args:
            node: its name.
            known: the revision that was returned before, None where what was known is void.

        Raises:
            Conflict: another node has this name.
        """
        ...

    def all(self) -> AbstractAsyncContextManager[tuple[AsyncIterable[StoredRoute], int]]:
        """Give all routes as they come, and the revision at which they are read."""
        ...

    def watch(self, from_revision: int) -> AsyncGenerator[RouteChanges, None]:
        """Give the changes of each revision from one on, for ever.

        Raises:
            HistoryCompacted: they are no longer kept.
        """
        ...


class ApiSource:
    """Routes from Ceryx's API.

    Args:
        ceryx: the API.
        home: an id of where the node keeps what it knows.
    """

    def __init__(self, ceryx: CeryxClient, home: str | None = None) -> None:
        self._ceryx = ceryx
        self._home = home

    async def register(self, node: str, known: int | None) -> int:
        """See `RouteSource.register`."""
        return (await self._ceryx.register_node(node, self._home)).registered_revision

    def all(self) -> AbstractAsyncContextManager[tuple[AsyncIterable[StoredRoute], int]]:
        """See `RouteSource.all`."""
        return self._ceryx.routes(SILENCE)

    async def watch(self, from_revision: int) -> AsyncGenerator[RouteChanges, None]:
        """See `RouteSource.watch`."""
        params = {"watch": "true", "from": from_revision}
        async with self._ceryx.events("/api/routes/", params=params, silence=SILENCE) as events:
            async for event in events:
                if event.event == "error":
                    raise HistoryCompacted(event.data)
                if event.event == "changes":
                    yield await _changes(event.json())


async def _changes(event: dict[str, Any]) -> RouteChanges:
    changes = [RouteChange(**change) async for change in in_steps(event["changes"])]
    return RouteChanges(revision=event["revision"], changes=changes)


class StoreSource:
    """Routes from the store, which other processes write to. Only to register takes Ceryx's API, and only once.

    Args:
        opening: opens Ceryx's store, once it answers.
        ceryx: the API: it must know of a node before that takes its snapshot, since it waits for all that it knows.
        home: an id of where the node keeps what it knows.
    """

    def __init__(self, opening: Callable[[], Awaitable[Store]], ceryx: CeryxClient, home: str) -> None:
        self._opening = opening
        self._opened: Store | None = None
        self._ceryx = ceryx
        self._home = home

    async def _store(self) -> Store:
        if self._opened is None:
            self._opened = await self._opening()
        return self._opened

    async def register(self, node: str, known: int | None) -> int:
        """See `RouteSource.register`."""
        entry = await (await self._store()).get(node_key(node))
        # One of which nobody told this node may be none that Ceryx knows of.
        if entry is not None and entry.create_revision == known:
            check_home(node, record_of(entry).get("home"), self._home)
            return entry.create_revision
        return (await self._ceryx.register_node(node, self._home)).registered_revision

    @asynccontextmanager
    async def all(self) -> AsyncIterator[tuple[AsyncIterable[StoredRoute], int]]:
        """See `RouteSource.all`."""
        store = await self._store()
        first = await store.list(ROUTES, limit=store.page_size)
        yield _decoded(store, first), first.revision

    async def watch(self, from_revision: int) -> AsyncGenerator[RouteChanges, None]:
        """See `RouteSource.watch`."""
        store = await self._store()
        if from_revision > (current := await store.revision()) + 1:  # of a store that was restored, for one
            raise HistoryCompacted(f"Revision {from_revision} has yet to come, this store is at {current}.")
        following = cast("AsyncGenerator[Change, None]", store.watch("", from_revision))
        async with contextlib.aclosing(following) as changes:
            async for change in changes:
                shown = [
                    RouteChange(
                        source=event.key.removeprefix(ROUTES),
                        route=None if event.entry is None else decode_route(event.entry),
                    )
                    async for event in in_steps(change.events)
                    if event.key.startswith(ROUTES)
                ]
                yield RouteChanges(revision=change.revision, changes=shown)


async def _decoded(store: Store, page: Page) -> AsyncIterator[StoredRoute]:
    while True:
        async for entry in in_steps(page.entries):
            yield decode_route(entry)
        if not page.more:
            return
        after = page.entries[-1].key
        page = await store.list(ROUTES, revision=page.revision, start_after=after, limit=store.page_size)
