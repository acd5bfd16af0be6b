"""Waking watchers after each commit: from memory where that reaches back far enough, from history where not.

Every watcher knows the next revision that it wants, and nothing is queued for it. So replay and live changes meet
without a gap and without a double, and a slow reader costs no memory: it only falls back to reading history.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from itertools import islice

from sourcelair.errors import HistoryCompacted
from sourcelair.store.base import Change
from sourcelair.store.sqlite.reader import History
from sourcelair.store.sqlite.writer import Committed

RECENT_EVENTS = 2048
"""Events that are kept in memory, for all watchers together."""

RECENT_BYTES = 8 << 20
"""Bytes of values, about, that these may have."""

LIVE_PAGE = 256
"""Changes that a watcher takes from memory at once, before others get their turn."""


@dataclass(slots=True, eq=False)
class _Watcher:
    prefix: str
    next: int
    wake: asyncio.Future[None] | None = None

    def covered(self, change: Change) -> Change | None:
        """Return the part of a change that is under the prefix, or None."""
        events = tuple(event for event in change.events if event.key.startswith(self.prefix))
        if len(events) == len(change.events):
            return change
        return Change(change.revision, events) if events else None


class Watches:
    """All watchers of a store, on its event loop.

    Args:
        revision: the store's current one.
        compacted: history is kept from the revision after this one.
        history: reads changes of a prefix from a revision on, from the tables.
    """

    def __init__(self, revision: int, compacted: int, history: Callable[[str, int], Awaitable[History]]) -> None:
        self._revision = revision
        self._compacted = compacted
        self._history = history
        self._recent: deque[Change] = deque()
        self._events = 0
        self._bytes = 0
        self._waiting: set[_Watcher] = set()
        self._closed = False

    def publish(self, done: Committed) -> None:
        """Keep what was committed, and wake whom it concerns."""
        self._compacted = done.compacted
        for change in done.changes:
            self._revision = change.revision
            self._recent.append(change)
            self._events += len(change.events)
            self._bytes += _size(change)
            for watcher in self._waiting:
                if change.revision < watcher.next:
                    continue
                if watcher.wake is not None and not watcher.wake.done():
                    if watcher.covered(change) is None:
                        watcher.next = change.revision + 1
                    else:
                        watcher.wake.set_result(None)
        while self._events > RECENT_EVENTS or self._bytes > RECENT_BYTES:
            dropped = self._recent.popleft()
            self._events -= len(dropped.events)
            self._bytes -= _size(dropped)

    async def watch(self, prefix: str, from_revision: int) -> AsyncIterator[Change]:
        """Give all changes under `prefix` from a revision on; ends when the store is closed. See `Store.watch`."""
        watcher = _Watcher(prefix, max(from_revision, 1))
        if watcher.next <= self._compacted and not self._closed:
            raise HistoryCompacted(
                f"Changes of revision {from_revision} are no longer kept: list, and watch from there."
            )
        while not self._closed:
            if watcher.next > self._revision:
                await self._wait(watcher)
                continue
            for change in await self._read(watcher):
                yield change

    async def _wait(self, watcher: _Watcher) -> None:
        watcher.wake = asyncio.get_running_loop().create_future()
        self._waiting.add(watcher)
        try:
            await watcher.wake
        finally:
            self._waiting.discard(watcher)
            watcher.wake = None

    async def _read(self, watcher: _Watcher) -> Iterable[Change]:
        """Return the next changes and move on behind them."""
        start = watcher.next - self._recent[0].revision if self._recent else -1
        if start < 0:
            page = await self._history(watcher.prefix, watcher.next)
            watcher.next = page.upto + 1
            return page.changes
        taken = list(islice(self._recent, start, start + LIVE_PAGE))  # revisions have no holes
        watcher.next = taken[-1].revision + 1
        return [part for change in taken if (part := watcher.covered(change))]

    def close(self) -> None:
        """End all watches."""
        self._closed = True
        for watcher in self._waiting:
            if watcher.wake is not None and not watcher.wake.done():
                watcher.wake.set_result(None)


def _size(change: Change) -> int:
    return sum(len(event.entry.value) if event.entry else 0 for event in change.events)
