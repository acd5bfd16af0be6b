"""A copied store, whose revisions go on from those of the store that it was copied from.

Revisions are kept outside the store too: NGINX refuses a route that is older than what it has, servers' records and
ports name the revision of a withdrawal, clients hold ETags and the id of the last event. A copy has revisions of its
own, which may be far lower; all of that would stand still until they had caught up. So a constant is added to each,
and history begins at the copy: whoever asks for what was before is told to list again.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Iterator, Sequence
from typing import cast

from sourcelair.errors import HistoryCompacted
from sourcelair.store.base import Change, Compare, CompareFailed, Entry, Event, Operation, Page, Store

NEVER = -1
"""A revision that no key ever has."""


class Continued:
    """A `Store` that is another one with higher revisions.

    Args:
        store: the copy, with its own revisions.
        ahead: what is added to each of them.
        oldest: the revision, as it is shown, at which the copy was whole: history begins there.
    """

    def __init__(self, store: Store, ahead: int, oldest: int) -> None:
        self._store = store
        self._ahead = ahead
        self._oldest = oldest

    @property
    def most_operations(self) -> int | None:
        """See `Store.most_operations`."""
        return self._store.most_operations

    @property
    def page_size(self) -> int:
        """See `Store.page_size`."""
        return self._store.page_size

    async def revision(self) -> int:
        """See `Store.revision`."""
        return await self._store.revision() + self._ahead

    async def get(self, key: str) -> Entry | None:
        """See `Store.get`."""
        return self._shown(await self._store.get(key))

    async def list(self, prefix: str, *, revision: int | None = None, start_after: str = "", limit: int = 0) -> Page:
        """See `Store.list`."""
        if revision is not None and revision < self._oldest:
            raise HistoryCompacted(f"Revision {revision} is of before the store was copied: list the current one.")
        at = None if revision is None else revision - self._ahead
        page = await self._store.list(prefix, revision=at, start_after=start_after, limit=limit)
        return Page(tuple(map(self._entry, page.entries)), page.revision + self._ahead, page.more)

    async def put(self, key: str, value: bytes, *, expect: int | None = None, lease: int | None = None) -> int:
        """See `Store.put`."""
        with self._failures():
            revision = await self._store.put(key, value, expect=self._expected(expect), lease=lease)
        return revision + self._ahead

    async def delete(self, key: str, *, expect: int | None = None) -> bool:
        """See `Store.delete`."""
        with self._failures():
            return await self._store.delete(key, expect=self._expected(expect))

    async def transact(self, compares: Sequence[Compare], operations: Sequence[Operation]) -> int:
        """See `Store.transact`."""
        inner = [Compare(one.key, self._own(one.mod_revision)) for one in compares]
        with self._failures():
            return await self._store.transact(inner, operations) + self._ahead

    async def watch(self, prefix: str, from_revision: int) -> AsyncGenerator[Change, None]:
        """See `Store.watch`."""
        if from_revision <= self._oldest:
            raise HistoryCompacted(f"Changes of revision {from_revision} are of before the store was copied: list.")
        changes = cast("AsyncGenerator[Change, None]", self._store.watch(prefix, from_revision - self._ahead))
        async with contextlib.aclosing(changes):
            async for change in changes:
                yield Change(change.revision + self._ahead, tuple(map(self._event, change.events)))

    async def grant_lease(self, ttl: float) -> int:
        """See `Store.grant_lease`."""
        return await self._store.grant_lease(ttl)

    async def renew_lease(self, lease: int) -> None:
        """See `Store.renew_lease`."""
        await self._store.renew_lease(lease)

    async def revoke_lease(self, lease: int) -> None:
        """See `Store.revoke_lease`."""
        await self._store.revoke_lease(lease)

    async def compact(self, revision: int) -> None:
        """See `Store.compact`."""
        if revision > self._oldest:
            await self._store.compact(revision - self._ahead)

    async def close(self) -> None:
        """See `Store.close`."""
        await self._store.close()

    def _own(self, revision: int) -> int:
        """Return what the store itself calls a revision; one of before the copy no key has."""
        if revision == 0:
            return 0
        return revision - self._ahead if revision > self._ahead else NEVER

    def _expected(self, expect: int | None) -> int | None:
        return None if expect is None else self._own(expect)

    def _entry(self, entry: Entry) -> Entry:
        # Not `replace`: that takes five times as long, and there may be a hundred thousand of them.
        return Entry(
            entry.key,
            entry.value,
            entry.create_revision + self._ahead,
            entry.mod_revision + self._ahead,
            entry.version,
            entry.lease,
        )

    def _shown(self, entry: Entry | None) -> Entry | None:
        return None if entry is None else self._entry(entry)

    def _event(self, event: Event) -> Event:
        return Event(
            event.kind, event.key, event.revision + self._ahead, self._shown(event.entry), self._shown(event.previous)
        )

    @contextlib.contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except CompareFailed as error:
            actual = error.mod_revision + self._ahead if error.mod_revision else 0
            raise CompareFailed(error.key, actual) from error
