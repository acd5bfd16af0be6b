"""What instances were asked, as the nodes counted it, and the sum over all nodes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from sourcelair.client.ceryx import Activity, InstanceCounts, NodeTotal

if TYPE_CHECKING:
    from sourcelair.ceryx.nodes import NodeState

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


def activity(instances: Sequence[str], nodes: Sequence[NodeState]) -> list[Activity]:
    """Return the activity of instances on all nodes, in the same order; zeros for one that no node reported.

    `totals` names every node whose NGINX is known, those that never sent the instance anything too: whoever compares
    them later must notice a first request.
    """
    return [_sum(instance, nodes) for instance in instances]


def _sum(instance: str, nodes: Sequence[NodeState]) -> Activity:
    counts = [node.counts.get(instance) for node in nodes]
    return Activity(
        instance=instance,
        in_flight=sum(item.in_flight for item in counts),
        active=sum(item.in_flight - item.robots_in_flight for item in counts),
        streams=sum(item.streams for item in counts),
        last_active=max((item.last_active for item in counts if item.last_active is not None), default=None),
        totals=[
            NodeTotal(node=node.name, generation=node.generation, total=item.total)
            for node, item in zip(nodes, counts, strict=True)
            if node.generation is not None
        ],
    )
