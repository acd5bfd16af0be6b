"""The interface of every store, revisioned as etcd's is (https://etcd.io/docs/v3.4/learning/data_model/).

One counter, the *revision*, counts the transactions that changed something; every key carries the revision of its
creation and of its last change. Transactions that come at the same time may be done as one, and share its revision;
each keeps its own conditions. A write that was answered is on disk. A watch gives all changes from a revision on, in
order, each revision whole; one that asks for history that is gone raises `HistoryCompacted`, so that its reader lists
again.

Besides the errors that are named below, every method may raise `InvalidInput` and `TooLarge` (see `limits`), every
write `OutOfSpace` (nothing was written, and it may work again later), and a closed store `Unavailable`. A write may
raise `Unavailable` too where the disk fails so badly that nobody knows whether it was written; the message says so.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol


@dataclass(frozen=True, slots=True)
class Entry:
    """One key as it stood at some revision. `version` counts its changes since it was created, from 1."""

    key: str
    value: bytes
    create_revision: int
    mod_revision: int
    version: int
    lease: int | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """One change. `entry` is None for a deletion; `previous` is what stood before, None where nothing did."""

    kind: Literal["put", "delete"]
    key: str
    revision: int
    entry: Entry | None
    previous: Entry | None


@dataclass(frozen=True, slots=True)
class Change:
    """All changes of one transaction that a watch covers, in the order of their keys."""

    revision: int
    events: tuple[Event, ...]


@dataclass(frozen=True, slots=True)
class Page:
    """Entries in the order of their keys, all read at `revision`; `more` says that the limit cut it."""

    entries: tuple[Entry, ...]
    revision: int
    more: bool


@dataclass(frozen=True, slots=True)
class Compare:
    """A condition of a transaction: the key's `mod_revision` must be this; 0 means that it must not exist."""

    key: str
    mod_revision: int


@dataclass(frozen=True, slots=True)
class Put:
    """Write a key; with a lease, it is gone when the lease runs out."""

    key: str
    value: bytes
    lease: int | None = None


@dataclass(frozen=True, slots=True)
class Delete:
    """Remove a key. Removing one that is absent changes nothing, and costs no revision."""

    key: str


Operation = Put | Delete


class CompareFailed(Exception):
    """A condition did not hold, and nothing was written.

    Args:
        key: the first key whose condition failed.
        mod_revision: the revision of its last change, 0 where it does not exist.
    """

    def __init__(self, key: str, mod_revision: int) -> None:
        super().__init__(f"{key} is at revision {mod_revision}")
        self.key = key
        self.mod_revision = mod_revision


class LeaseNotFound(Exception):
    """The lease has run out or was revoked."""


class Readable(Protocol):
    """The part of a store that reads it as it stands."""

    @property
    def page_size(self) -> int:
        """Return how many keys to ask for at once where all are read: more hold others up, fewer take longer in all."""
        ...

    async def revision(self) -> int:
        """Return the current revision; 0 for a store that nobody wrote to."""
        ...

    async def get(self, key: str) -> Entry | None:
        """Return the key as it stands, or None."""
        ...

    async def list(self, prefix: str, *, revision: int | None = None, start_after: str = "", limit: int = 0) -> Page:
        """Return the keys that begin with `prefix`.

        Args:
            prefix: of the keys; empty means all.
            revision: read as of then, so that pages fit together; None means now.
            start_after: the last key of the page before.
            limit: entries at most; 0 means all.

        Raises:
            HistoryCompacted: that revision is no longer kept.
            InvalidInput: it is yet to come.
        """
        ...


class Store(Readable, Protocol):
    """What a service may ask of its store. Keys are text such as `/routes/blog--demo.localhost`."""

    @property
    def most_operations(self) -> int | None:
        """Return how many conditions, and how many operations, a transaction may have; None for any number."""
        ...

    async def put(self, key: str, value: bytes, *, expect: int | None = None, lease: int | None = None) -> int:
        """Write one key, and return the revision of the write.

        Args:
            key: the key.
            value: its new value.
            expect: write only if its `mod_revision` is this (0: only if it does not exist).
            lease: gone with this lease.

        Raises:
            CompareFailed: `expect` did not hold.
            LeaseNotFound: no such lease.
        """
        ...

    async def delete(self, key: str, *, expect: int | None = None) -> bool:
        """Remove one key; return whether it was there.

        Raises:
            CompareFailed: `expect` did not hold.
        """
        ...

    async def transact(self, compares: Sequence[Compare], operations: Sequence[Operation]) -> int:
        """Do all operations or none, under one revision, and return the store's revision after it.

        Args:
            compares: all must hold.
            operations: at most one for each key.

        Raises:
            CompareFailed: one did not hold; nothing was written.
            LeaseNotFound: no such lease; nothing was written.
        """
        ...

    def watch(self, prefix: str, from_revision: int) -> AsyncIterator[Change]:
        """Give every change of the keys under `prefix` whose revision is `from_revision` or later, then wait for more.

        Raises:
            HistoryCompacted: changes since then are no longer kept. List, and watch from its revision + 1.
        """
        ...

    async def grant_lease(self, ttl: float) -> int:
        """Return a new lease that runs out `ttl` seconds after its last renewal, with all its keys."""
        ...

    async def renew_lease(self, lease: int) -> None:
        """Start the lease's time anew.

        Raises:
            LeaseNotFound: it has run out; its keys are gone.
        """
        ...

    async def revoke_lease(self, lease: int) -> None:
        """End a lease and delete its keys at once. One that is gone already is no error."""
        ...

    async def compact(self, revision: int) -> None:
        """Forget history up to and including `revision`; the keys as they stand are kept.

        That revision is then the oldest that can be listed, and the one after it the first that can be watched.

        Raises:
            InvalidInput: it is yet to come. One that was forgotten already is no error.
        """
        ...

    async def close(self) -> None:
        """Finish what was accepted, and free the files. Watches end."""
        ...
