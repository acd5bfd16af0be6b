"""What etcd says, in SQLite's numbers: revisions and leases of the two differ, and each is noted with the other's."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, replace

from sourcelair.store.base import Change, CompareFailed, Entry, Event, Page


@dataclass(frozen=True)
class Lease:
    """One lease, by both of its names."""

    sqlite: int
    etcd: int


class Numbers:
    """Which revision of etcd is which of SQLite, and which lease."""

    def __init__(self, sqlite: int, etcd: int) -> None:
        self._sqlite, self._etcd = [sqlite], [etcd]
        self._leases = dict[int, Lease]()

    def note_lease(self, lease: Lease) -> None:
        self._leases[lease.etcd] = lease

    @property
    def last(self) -> int:
        return self._sqlite[-1]

    @property
    def first(self) -> int:
        return self._sqlite[0]

    def note(self, sqlite: int, etcd: int) -> None:
        if sqlite > self.last:
            assert etcd > self._etcd[-1], "what is a change for one is none for the other"
            self._sqlite.append(sqlite)
            self._etcd.append(etcd)

    def to_etcd(self, sqlite: int) -> int:
        """Any other number is its own: those that are far from every revision."""
        return self._etcd[self._sqlite.index(sqlite)] if sqlite in self._sqlite else sqlite

    def exactly(self, etcd: int) -> int:
        """Of a change that was noted, or 0 for what is not there."""
        return self._sqlite[self._etcd.index(etcd)] if etcd else 0

    def at(self, etcd: int) -> int:
        """Of whatever moment: the last change until then."""
        return self._sqlite[bisect_right(self._etcd, etcd) - 1]

    def told(self, found: object) -> object:
        """Return what etcd gave as SQLite would have given it."""
        match found:
            case (kind, str(key), int(revision)) if kind is CompareFailed:
                return kind, key, self.exactly(revision)
            case Entry():
                lease = self._leases[found.lease].sqlite if found.lease else None
                made, changed = (self.exactly(one) for one in (found.create_revision, found.mod_revision))
                return replace(found, create_revision=made, mod_revision=changed, lease=lease)
            case Page():
                entries = tuple(self.told(entry) for entry in found.entries)
                return replace(found, entries=entries, revision=self.at(found.revision))
            case Event():
                entry, previous = self.told(found.entry), self.told(found.previous)
                return replace(found, revision=self.exactly(found.revision), entry=entry, previous=previous)
            case Change():
                events = tuple(self.told(event) for event in found.events)
                return replace(found, revision=self.exactly(found.revision), events=events)
            case _:
                return found
