"""Ceryx's metrics, registered once in a process however many services it makes."""

from __future__ import annotations

import contextlib

from prometheus_client import Gauge, Histogram

from sourcelair.telemetry import METRICS

ROUTES = Gauge("lair_ceryx_routes", "Routes in the store.", registry=METRICS)
NODES = Gauge("lair_ceryx_nodes", "Registered proxy nodes.", ["state"], registry=METRICS)
HELD = Gauge("lair_held_requests", "Requests that wait at a node's gate for their server.", ["node"], registry=METRICS)
CONNECTIONS = Gauge("lair_connections", "Connections that clients have open at a node.", ["node"], registry=METRICS)
WRITE_SECONDS = Histogram(
    "lair_ceryx_write_seconds",
    "Seconds from accepting a write of routes to having it on disk.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5),
    registry=METRICS,
)
SERVED_SECONDS = Histogram(
    "lair_ceryx_served_seconds",
    "Seconds from a write on disk until every live node serves it.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5),
    registry=METRICS,
)


def show_node(node: str, held: int, connections: int | None) -> None:
    """Show what a node said of itself."""
    HELD.labels(node).set(held)
    if connections is not None:
        CONNECTIONS.labels(node).set(connections)


def forget_node(node: str) -> None:
    """Show nothing of a node any more that is silent or gone."""
    for gauge in (HELD, CONNECTIONS):
        with contextlib.suppress(KeyError):
            gauge.remove(node)
