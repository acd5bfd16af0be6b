"""What a store should do, in the plainest way: the whole state after every revision is kept."""

from __future__ import annotations

from collections.abc import Sequence

from sourcelair.store.base import Change, Compare, CompareFailed, Delete, Entry, Event, LeaseNotFound, Operation, Put


class Model:
    """The store as a dictionary, and all that it ever was.

    Args:
        revision: the store's first one.
    """

    def __init__(self, revision: int) -> None:
        self.revision = revision
        self.first = revision
        self.compacted = revision
        self.states: dict[int, dict[str, Entry]] = {revision: {}}
        self.changes: list[Change] = []
        self.leases: dict[int, tuple[float, float]] = {}  # ttl, deadline
        self.now = 0.0

    @property
    def state(self) -> dict[str, Entry]:
        return self.states[self.revision]

    def transact(self, compares: Sequence[Compare], operations: Sequence[Operation]) -> int:
        for compare in compares:
            entry = self.state.get(compare.key)
            actual = entry.mod_revision if entry else 0
            if actual != compare.mod_revision:
                raise CompareFailed(compare.key, actual)
        if any(
            isinstance(each, Put) and each.lease is not None and each.lease not in self.leases for each in operations
        ):
            raise LeaseNotFound
        state = dict(self.state)
        revision = self.revision + 1
        events = []
        for operation in sorted(operations, key=lambda each: each.key):
            key = operation.key
            before = state.get(key)
            if isinstance(operation, Put):
                created = before.create_revision if before else revision
                version = before.version + 1 if before else 1
                state[key] = Entry(key, operation.value, created, revision, version, operation.lease)
                events.append(Event("put", key, revision, state[key], before))
            elif before is not None:
                del state[key]
                events.append(Event("delete", key, revision, None, before))
        if events:
            self.revision = revision
            self.states[revision] = state
            self.changes.append(Change(revision, tuple(events)))
        return self.revision

    def list(self, prefix: str, revision: int) -> list[Entry]:
        return [entry for key, entry in sorted(self.states[revision].items()) if key.startswith(prefix)]

    def watched(self, prefix: str, start: int) -> list[Change]:
        """The changes that a watch gives."""
        found = []
        for change in self.changes:
            events = tuple(event for event in change.events if event.key.startswith(prefix))
            if change.revision >= start and events:
                found.append(Change(change.revision, events))
        return found

    def end_lease(self, lease: int) -> None:
        self.leases.pop(lease, None)
        self.transact([], [Delete(key) for key, entry in self.state.items() if entry.lease == lease])

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        for lease, (_, deadline) in sorted(self.leases.items()):
            if deadline <= self.now:
                self.end_lease(lease)

    def grant(self, lease: int, ttl: float) -> None:
        self.leases[lease] = (ttl, self.now + ttl)

    def renew(self, lease: int) -> None:
        if lease not in self.leases:
            raise LeaseNotFound
        self.grant(lease, self.leases[lease][0])

    def renew_all(self) -> None:
        for lease in self.leases:
            self.renew(lease)
