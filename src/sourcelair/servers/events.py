"""What happens to servers, as a stream: every stored change, for those who may see it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import cast

from sourcelair.auth import Identity
from sourcelair.client.servers import ServerEvent
from sourcelair.errors import HistoryCompacted
from sourcelair.servers.context import Context
from sourcelair.servers.records import SERVERS, ServerRecord, decode
from sourcelair.store.base import Change


async def follow(context: Context, identity: Identity, after: int | None) -> AsyncGenerator[list[ServerEvent], None]:
    """Begin to follow all changes that this token may see after a revision; None: from now on.

    What is given at once is of one revision.

    Raises:
        HistoryCompacted: at once, or later from the generator: list again.
    """
    store = context.store
    current = await store.revision()
    start = (current if after is None else after) + 1
    if start > current + 1:
        raise HistoryCompacted(f"Revision {after} has yet to come, this store is at {current}: list again.")
    changes = cast("AsyncGenerator[Change, None]", store.watch(SERVERS, start))
    first = asyncio.ensure_future(anext(changes, None))
    # Lost history shows at the first step, which the store takes before it answers this.
    await store.revision()
    await asyncio.sleep(0)
    if first.done() and not first.cancelled() and first.exception() is not None:
        await changes.aclose()
        first.result()
    return _follow(context, identity, changes, first)


async def _follow(
    context: Context,
    identity: Identity,
    changes: AsyncGenerator[Change, None],
    first: asyncio.Future[Change | None],
) -> AsyncGenerator[list[ServerEvent], None]:
    try:
        change = await first
        while change is not None:
            shown = list[ServerEvent]()
            for event in change.events:
                owner, _, project = event.key.removeprefix(SERVERS).partition("/")
                if not may_see(identity, owner):
                    continue
                server = None
                if event.entry is not None:
                    record = context.policies.applied(decode(ServerRecord, event.entry))
                    server = context.show(record, event.revision)
                shown.append(ServerEvent(revision=event.revision, owner=owner, project=project, server=server))
            if shown:
                yield shown
            change = await anext(changes, None)
    finally:
        first.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await first
        await changes.aclose()


def may_see(identity: Identity, owner: str) -> bool:
    """Return whether this token may see that owner's servers."""
    if identity.kind in {"owner", "read"}:
        return identity.owner == owner or (identity.kind == "read" and identity.owner is None)
    return identity.kind in {"admin", "service"}
