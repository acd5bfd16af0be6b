"""Comparing two stores, key by key, without having all of one in memory."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import AsyncGenerator, Iterator

from sourcelair.store.base import Entry, Readable
from sourcelair.store.marks import KEY

Pair = tuple[Entry | None, Entry | None]
"""What a key is on both sides; None where it is not there."""


class Content:
    """The SHA-256 of a store's keys and values; they are added in the order of the keys."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def add(self, entry: Entry) -> None:
        """Add a key and its value."""
        for part in (entry.key.encode(), entry.value):
            self._hash.update(len(part).to_bytes(8, "big"))
            self._hash.update(part)

    def digest(self) -> str:
        """Return it as hexadecimal digits."""
        return self._hash.hexdigest()


async def digest(store: Readable) -> str:
    """Return the digest of what a store holds."""
    side, content = _Side(store, None), Content()
    await side.fill()
    while side.entries:
        content.add(side.entries.popleft())
        await side.fill()
    return content.digest()


async def is_empty(store: Readable) -> bool:
    """Return whether there is no key at all."""
    return not (await store.list("", limit=1)).entries


async def pairs(source: Readable, target: Readable, revision: int) -> AsyncGenerator[list[Pair], None]:
    """Give every key of two stores, some at a time, with what it is in both.

    Args:
        source: read as of `revision`.
        target: read as it stands: what was given already may be written meanwhile.
        revision: of the source.

    Raises:
        HistoryCompacted: the source does not keep that revision any more.
    """
    ours, theirs = _Side(source, revision), _Side(target, None)
    while True:
        await ours.fill()
        await theirs.fill()
        if not ours.entries and not theirs.entries:
            return
        yield list(_matched(ours, theirs))


class _Side:
    """A store's entries in the order of their keys: that of UTF-8's bytes, and so of their characters, everywhere.

    Those with a lease say that their writer is alive, and the mark of a copy is its own: both are left out.
    """

    def __init__(self, store: Readable, revision: int | None) -> None:
        self._store = store
        self._revision = revision
        self._after = ""
        self.more = True
        self.entries = deque[Entry]()

    async def fill(self) -> None:
        """Read on where nothing is left of the last page."""
        while self.more and not self.entries:
            most = self._store.page_size
            page = await self._store.list("", revision=self._revision, start_after=self._after, limit=most)
            self.entries.extend(entry for entry in page.entries if entry.lease is None and entry.key != KEY)
            self.more = page.more
            if page.entries:
                self._after = page.entries[-1].key


def _matched(ours: _Side, theirs: _Side) -> Iterator[Pair]:
    """Give pairs for as long as the next key of both sides is known."""
    while (ours.entries or theirs.entries) and (ours.entries or not ours.more) and (theirs.entries or not theirs.more):
        left = ours.entries[0] if ours.entries else None
        right = theirs.entries[0] if theirs.entries else None
        wanted = left if right is None or (left is not None and left.key <= right.key) else None
        found = right if left is None or (right is not None and right.key <= left.key) else None
        if wanted is not None:
            ours.entries.popleft()
        if found is not None:
            theirs.entries.popleft()
        yield wanted, found
