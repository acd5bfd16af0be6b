"""The tables, and what one transaction does to them. No threads and no waiting here: the writer calls this.

Every method checks all that it demands before it changes anything, and leaves beginning and ending transactions to
its caller, who takes a `mark` first and goes back to it when SQLite fails or a commit does.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

from sourcelair.errors import InvalidInput
from sourcelair.store.base import Change, Compare, CompareFailed, Delete, Entry, Event, LeaseNotFound, Operation, Put
from sourcelair.store.limits import MAX_INTEGER
from sourcelair.store.sqlite.rows import COLUMNS, DELETED, REVISION, entry, qualified

COMPACTION_STEP = 1000
"""Rows that one transaction compacts, about: a few milliseconds, so that writes get in between."""

_GET = f"SELECT {qualified('changes')} FROM current JOIN changes USING (key, revision) WHERE key = ?"  # noqa: S608
_INSERT = f"INSERT INTO changes ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)"  # noqa: S608 - constants only
_POINT = (
    "INSERT INTO current (key, revision, lease) VALUES (?, ?, ?) "
    "ON CONFLICT (key) DO UPDATE SET revision = excluded.revision, lease = excluded.lease"
)
_STEP = "SELECT revision FROM changes WHERE revision > ? ORDER BY revision LIMIT 1 OFFSET ?"
_SUPERSEDED = """
DELETE FROM changes WHERE (revision, key) IN (
    SELECT older.revision, older.key FROM changes AS newer
    JOIN changes AS older ON older.key = newer.key AND older.revision < newer.revision
    WHERE newer.revision > ? AND newer.revision <= ?)
"""
_GRAVES = f"DELETE FROM changes WHERE revision > ? AND revision <= ? AND version = {DELETED}"  # noqa: S608


@dataclass(frozen=True, slots=True)
class Mark:
    """What of the ledger is in memory, to go back to."""

    revision: int
    compacted: int
    surplus: int
    changes: int


class Ledger:
    """The store's tables through one connection.

    Attributes:
        revision: of the last transaction that changed something, committed or not.
        compacted: history is kept from the revision after this one.
        surplus: rows that only history needs; what compaction can free.
        changes: what happened since `take_changes`.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._sql = connection.execute
        self.revision = int(self._sql(REVISION).fetchone()[0])
        self.compacted = int(self._sql("SELECT revision FROM compaction").fetchone()[0])
        counts = "SELECT (SELECT count(*) FROM changes), (SELECT count(*) FROM current)"
        rows, keys = self._sql(counts).fetchone()
        self.surplus: int = rows - keys
        self.changes: list[Change] = []

    def mark(self) -> Mark:
        """Return the point to which `reset` goes back."""
        return Mark(self.revision, self.compacted, self.surplus, len(self.changes))

    def reset(self, mark: Mark) -> None:
        """Forget what was done since `mark`; the caller has rolled the tables back."""
        self.revision, self.compacted, self.surplus = mark.revision, mark.compacted, mark.surplus
        del self.changes[mark.changes :]

    def take_changes(self) -> list[Change]:
        """Return the changes since the last call."""
        changes, self.changes = self.changes, []
        return changes

    def get(self, key: str) -> Entry | None:
        """Return the key as it stands."""
        return entry(self._sql(_GET, (key,)).fetchone())

    def transact(self, compares: Sequence[Compare], operations: Sequence[Operation]) -> int:
        """Do all operations or none, and return the revision after it; see `Store.transact`."""
        for compare in compares:
            known = self.get(compare.key)
            actual = known.mod_revision if known else 0
            if actual != compare.mod_revision:
                raise CompareFailed(compare.key, actual)
        for lease in {operation.lease for operation in operations if isinstance(operation, Put)} - {None}:
            self._check_lease(lease)
        revision = self.revision + 1
        events = [self._apply(operation, revision) for operation in sorted(operations, key=lambda each: each.key)]
        happened = tuple(event for event in events if event is not None)
        if happened:
            self.revision = revision
            self.changes.append(Change(revision, happened))
        return self.revision

    def _apply(self, operation: Operation, revision: int) -> Event | None:
        before = self.get(operation.key)
        key = operation.key
        if isinstance(operation, Delete):
            if before is None:
                return None
            self._sql(_INSERT, (key, b"", before.create_revision, revision, DELETED, None))
            self._sql("DELETE FROM current WHERE key = ?", (key,))
            self.surplus += 2
            return Event("delete", key, revision, None, before)
        after = Entry(
            key,
            operation.value,
            create_revision=before.create_revision if before else revision,
            mod_revision=revision,
            version=before.version + 1 if before else 1,
            lease=operation.lease,
        )
        self._sql(_INSERT, (key, after.value, after.create_revision, revision, after.version, after.lease))
        self._sql(_POINT, (key, revision, after.lease))
        self.surplus += before is not None
        return Event("put", key, revision, after, before)

    def _check_lease(self, lease: int | None) -> None:
        known = lease is not None and 0 < lease <= MAX_INTEGER
        if not known or self._sql("SELECT 1 FROM leases WHERE id = ?", (lease,)).fetchone() is None:
            raise LeaseNotFound(f"Lease {lease} has run out, or never was.")

    def leases(self) -> dict[int, float]:
        """Return all leases and their time to live in seconds."""
        return dict(self._sql("SELECT id, ttl FROM leases").fetchall())

    def grant_lease(self, ttl: float) -> int:
        """Return a new lease; its number was never used before."""
        (lease,) = self._sql("INSERT INTO leases (ttl) VALUES (?) RETURNING id", (ttl,)).fetchone()
        return int(lease)

    def end_lease(self, lease: int) -> None:
        """Remove a lease and all its keys; an unknown one is no error."""
        if not 0 < lease <= MAX_INTEGER:
            return
        keys = self._sql("SELECT key FROM current WHERE lease = ?", (lease,)).fetchall()
        self.transact([], [Delete(key) for (key,) in keys])
        self._sql("DELETE FROM leases WHERE id = ?", (lease,))

    def compact(self, revision: int) -> bool:
        """Forget some of the history up to `revision`; return whether more of it is left to forget.

        What a key was at the new oldest revision stays: so reading as of then works, and so does the `previous` of
        later events.

        Raises:
            InvalidInput: that revision is yet to come.
        """
        if revision > self.revision:
            raise InvalidInput(f"revision: {revision} is yet to come; the store is at {self.revision}.")
        if revision <= self.compacted:
            return False
        step = self._sql(_STEP, (self.compacted, COMPACTION_STEP)).fetchone()
        upto = min(revision, step[0]) if step else revision
        self.surplus -= self._sql(_SUPERSEDED, (self.compacted, upto)).rowcount
        self.surplus -= self._sql(_GRAVES, (self.compacted, upto)).rowcount
        self._sql("UPDATE compaction SET revision = ?", (upto,))
        self.compacted = upto
        return upto < revision
