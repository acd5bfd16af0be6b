"""What instances were asked: the sum of what all nodes counted."""

from __future__ import annotations

from collections.abc import Sequence

from sourcelair.ceryx.nodes import NodeState
from sourcelair.client.ceryx import Activity, NodeTotal


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
        active=sum(max(0, item.in_flight - item.robots_in_flight - item.idle_streams) for item in counts),
        streams=sum(item.streams for item in counts),
        idle_streams=sum(item.idle_streams for item in counts),
        last_active=max((item.last_active for item in counts if item.last_active is not None), default=None),
        totals=[
            NodeTotal(node=node.name, generation=node.generation, total=item.total, robots=item.robots)
            for node, item in zip(nodes, counts, strict=True)
            if node.generation is not None
        ],
    )
