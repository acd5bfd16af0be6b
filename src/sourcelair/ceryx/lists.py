"""Lists of routes: whole, as a stream, or page by page; all of one list as it stood at one revision.

A cursor carries that revision and the last source of its page. So pages fit together whatever is written meanwhile, and
nothing has to be kept for whoever reads them. It can be used for as long as the store keeps that revision.
"""

from __future__ import annotations

import asyncio
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Self

from pydantic_core import to_json

from sourcelair.ceryx.models import ROUTES, route_key, show_entry
from sourcelair.ceryx.sources import clean_source
from sourcelair.errors import BadRequest, HistoryCompacted, LairError
from sourcelair.pacing import in_steps
from sourcelair.store.base import Entry, Store
from sourcelair.store.limits import MAX_INTEGER

AT_ONCE = 500
"""Routes that are encoded in one step of a list: about 5 ms of the event loop."""

MAX_LIMIT = 10_000
"""Routes that one page may have: some 3 MB."""

_CURSOR = re.compile(r"([0-9]{1,19}) (\S+)")


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where a list goes on: after the source `after`, as it stood at `revision`."""

    revision: int
    after: str

    def encode(self) -> str:
        """Return it as text that needs no escapes in a URL."""
        return urlsafe_b64encode(f"{self.revision} {self.after}".encode()).decode().rstrip("=")

    @classmethod
    def decode(cls, text: str, prefix: str) -> Self:
        """Return the cursor that a text stands for.

        Args:
            text: as `encode` made it.
            prefix: of the sources of its list.

        Raises:
            BadRequest: it is none, or one of another list.
        """
        try:
            found = _CURSOR.fullmatch(urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode())
            cursor = cls(int(found[1]), clean_source(found[2])) if found else None
        except (ValueError, LairError):
            cursor = None
        if cursor is None or cursor.revision > MAX_INTEGER or cursor.encode() != text:
            raise BadRequest("cursor: it is none that a list gave: begin again without it.")
        if not cursor.after.startswith(prefix):
            raise BadRequest(f"cursor: it belongs to a list of another prefix than {prefix[:80]!r}.")
        return cursor


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a list shows: sources that begin with `prefix`, of one manager, and `revisions` of their last change."""

    prefix: str = ""
    manager: str | None = None
    revisions: bool = False

    def show(self, entry: Entry) -> bytes | None:
        """Return a route as the list shows it, in JSON; None where it is left out."""
        shown = show_entry(entry, revision=self.revisions)
        return to_json(shown) if self.manager is None or shown.get("managed_by") == self.manager else None


@dataclass(frozen=True, slots=True)
class Listed:
    """One page: a JSON array, read at `revision`. `following` is None where it is the last."""

    content: bytes
    revision: int
    following: Cursor | None


class RouteLists:
    """Reads the routes of a store.

    Args:
        store: where they lie, under `/routes/`.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    async def pages(self, prefix: str = "") -> AsyncIterator[tuple[tuple[Entry, ...], int]]:
        """Give all routes as they stood at one revision, some at once, with that revision; one page at least."""
        most = self._store.page_size
        page = await self._store.list(ROUTES + prefix, limit=most)
        revision = page.revision
        yield page.entries[:AT_ONCE], revision
        while True:
            for at in range(AT_ONCE, len(page.entries), AT_ONCE):
                await asyncio.sleep(0)
                yield page.entries[at : at + AT_ONCE], revision
            if not page.more:
                return
            last = page.entries[-1].key
            page = await self._store.list(ROUTES + prefix, revision=revision, start_after=last, limit=most)
            yield page.entries[:AT_ONCE], revision

    async def page(self, wanted: Wanted, limit: int, cursor: Cursor | None) -> Listed:
        """Return the routes after a cursor, or the first ones.

        Args:
            wanted: what is shown.
            limit: routes at most.
            cursor: of the page before, which was of the same list.

        Raises:
            HistoryCompacted: the cursor's revision is no longer kept, or has yet to come: it is another store's.
        """
        if cursor is not None and cursor.revision > (now := await self._store.revision()):
            raise HistoryCompacted(
                f"cursor: its revision {cursor.revision} has yet to come, and this store is at {now}: begin again."
            )
        revision = None if cursor is None else cursor.revision
        after = "" if cursor is None else route_key(cursor.after)
        found = list[bytes]()
        while True:
            # Of one manager there may be few: then many are looked at for each that is shown.
            most = self._store.page_size
            if wanted.manager is None:
                most = min(most, limit - len(found))
            try:
                page = await self._store.list(ROUTES + wanted.prefix, revision=revision, start_after=after, limit=most)
            except HistoryCompacted as error:
                raise HistoryCompacted(
                    f"cursor: revision {revision} is no longer kept: begin again without it."
                ) from error
            revision = page.revision
            async for at, entry in in_steps(enumerate(page.entries, 1)):
                if (shown := wanted.show(entry)) is not None:
                    found.append(shown)
                if len(found) == limit:
                    more = page.more or at < len(page.entries)
                    following = Cursor(revision, entry.key.removeprefix(ROUTES)) if more else None
                    return Listed(_array(found), revision, following)
            if not page.more:
                return Listed(_array(found), revision, None)
            after = page.entries[-1].key

    async def stream(self, wanted: Wanted) -> tuple[int, AsyncIterator[bytes]]:
        """Return the revision at which all routes are read, and the pieces of a JSON array of them.

        As one piece it would stall everybody else.
        """
        pages = self.pages(wanted.prefix)
        first, revision = await anext(pages)
        return revision, _pieces(first, pages, wanted)


async def _pieces(
    first: tuple[Entry, ...], pages: AsyncIterator[tuple[tuple[Entry, ...], int]], wanted: Wanted
) -> AsyncIterator[bytes]:
    def encode(page: tuple[Entry, ...]) -> bytes:
        return b",\n".join(shown for entry in page if (shown := wanted.show(entry)) is not None)

    before = b"["
    if piece := encode(first):
        yield before + piece
        before = b",\n"
    async for page, _ in pages:
        if piece := encode(page):
            yield before + piece
            before = b",\n"
    yield b"[]" if before == b"[" else b"]"


def _array(found: list[bytes]) -> bytes:
    return b"[" + b",\n".join(found) + b"]"
