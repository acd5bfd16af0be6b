"""What one node counted of each instance that it sent requests to."""

from __future__ import annotations

from collections.abc import Iterable

from sourcelair.client.ceryx import InstanceCounts

MAX_INSTANCES = 100_000
"""Instances of one node whose counts are kept; beyond that those go that were reported longest ago."""

_NONE = InstanceCounts(instance="")


class NodeCounts:
    """The last counts that one node reported, of each instance."""

    def __init__(self) -> None:
        self._counts: dict[str, InstanceCounts] = {}

    def get(self, instance: str) -> InstanceCounts:
        """Return the last counts; zeros where there are none."""
        return self._counts.get(instance, _NONE)

    def update(self, counts: Iterable[InstanceCounts]) -> None:
        """Take in changed counts. All zeros and no activity: the node has forgotten that instance."""
        for item in counts:
            self._counts.pop(item.instance, None)
            if item.total or item.in_flight or item.last_active is not None:
                self._counts[item.instance] = item
        while len(self._counts) > MAX_INSTANCES:
            del self._counts[next(iter(self._counts))]

    def begin_generation(self) -> None:
        """NGINX started anew: its counts begin at zero, and when each instance was last active remains."""
        self._counts = {
            name: InstanceCounts(instance=name, last_active=item.last_active)
            for name, item in self._counts.items()
            if item.last_active is not None
        }
