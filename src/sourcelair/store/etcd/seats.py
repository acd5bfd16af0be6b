"""Who acts for which service right now, as etcd says: so services find each other, and nobody has to be told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from sourcelair.errors import HistoryCompacted, LairError
from sourcelair.store.etcd.claim import SEATS, Holder, holder_of
from sourcelair.store.etcd.cluster import LONGEST_PAUSE
from sourcelair.store.etcd.store import EtcdStore


class Seats:
    """The holders of all seats. While etcd is away they are those that it named last.

    Args:
        store: where the seats lie.
    """

    def __init__(self, store: EtcdStore) -> None:
        self.on_change: list[Callable[[], None]] = []
        """All are called when a holder is another one."""
        self._store = store
        self._holders: dict[str, Holder] = {}

    def url(self, service: str) -> str | None:
        """Return where the process that acts for a service answers; None while nobody does."""
        holder = self._holders.get(service)
        return holder.url if holder else None

    async def run(self) -> None:
        """Follow them, for ever."""
        while True:
            try:
                page = await self._store.list(SEATS)
                self._set({entry.key.removeprefix(SEATS): holder_of(entry) for entry in page.entries})
                async for change in self._store.watch(SEATS, page.revision + 1):
                    holders = dict(self._holders)
                    for event in change.events:
                        holders.pop(event.key.removeprefix(SEATS), None)
                        if event.entry is not None:
                            holders[event.key.removeprefix(SEATS)] = holder_of(event.entry)
                    self._set(holders)
            except HistoryCompacted:
                continue
            except LairError:
                await asyncio.sleep(LONGEST_PAUSE)
            else:
                return  # the store was closed

    def _set(self, holders: dict[str, Holder]) -> None:
        if holders != self._holders:
            self._holders = holders
            for tell in self.on_change:
                tell()
