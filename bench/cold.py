"""A cold start of a node with very many routes: NGINX and the agent from its file, without the API and the store."""

from __future__ import annotations

import signal
import sys
import time
from dataclasses import dataclass

import bench.node
from bench.million import route
from bench.peers.lair import Lair, table_bytes
from bench.peers.nginx import upstream
from bench.stage import Stage
from bench.usage import cpu_seconds, memory_bytes
from bench.visits import until_served

from sourcelair.ceryx.agent.entries import entry_of
from sourcelair.ceryx.agent.records import entry_line
from sourcelair.ceryx.table import TableEntry
from sourcelair.client.ceryx import StoredRoute

LONGEST = 600.0
"""Seconds that it may take."""


@dataclass
class Cold:
    """What it took: seconds until a route in the middle and the last one were served, and what was used then."""

    middle: float
    last: float
    file: int
    """Bytes of the node's file."""
    nginx: int
    """Bytes of memory, and so below."""
    agent: int
    cpu: float
    """Seconds of processor time, of both."""


def cold_start(place: Stage, number: int) -> Cold:
    """Start a node whose file has so many routes, two of them live ones of this machine."""
    lair, port = Lair(), upstream(place, 1)[0]
    lair.start(place, {route(0).source: port}, LAIR_ROUTE_TABLE_BYTES=table_bytes(number))
    lair.end_control_plane(signal.SIGTERM)
    lair.kill_nginx()
    file = lair.data_dir / "agent" / "routes"
    visited = number // 2, number - 1
    with file.open("ab") as lines:
        lines.writelines(
            entry_line(_entry(at, port if at in visited else None), None, at in visited) for at in range(1, number)
        )
    began = time.monotonic()
    agent = place.spawn([sys.executable, bench.node.__file__], env=lair.env, cwd=lair.data_dir.parent)
    middle, last = until_served(lair.port, [route(at).source for at in visited], began, LONGEST)
    nginx = lair.nginx()
    return Cold(
        middle,
        last,
        file.stat().st_size,
        memory_bytes(nginx),
        memory_bytes([agent.pid]),
        cpu_seconds([agent.pid, *nginx]),
    )


def _entry(number: int, port: int | None) -> TableEntry:
    """Return the entry of one of many routes; with a port, one that is live on this machine."""
    one = route(number)
    target = f"http://127.0.0.1:{port}" if port else one.target
    stored = StoredRoute(**{**one.model_dump(), "target": target, "revision": 10 + number})
    return entry_of(stored)[0]
