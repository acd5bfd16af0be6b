"""How long visitors wait, and what they notice, while a part of an installation with many routes starts anew."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import bench.node
from bench.peers.base import Routes
from bench.peers.haproxy import HaproxyMap
from bench.peers.lair import Lair, table_bytes
from bench.peers.nginx import upstream
from bench.report import Report, Table, spread
from bench.stage import Stage, end, stage
from bench.visits import LONGEST, Seen, until_served, visiting

TARGETS = 8

PROMISE = 3.0
"""Seconds until everything is served again where NGINX starts anew and the API is down, with 100,000 routes."""

GENEROUS = 20.0
"""Times as long as HAProxy's start, and as many seconds, as the regression check allows."""

VISITED = 100
"""Hosts that are visited all the time while the control plane starts anew."""

NEW_AGENT = "everything, without the agent's file"
FROM_FILE = "NGINX and its agent, API down"
NGINX_ALONE = "NGINX, API down"


@dataclass
class Starts:
    """Seconds of each start of one kind, until this was so; what does not apply to it is empty."""

    middle: list[float] = field(default_factory=list)
    last: list[float] = field(default_factory=list)
    agent: list[float] = field(default_factory=list)
    ready: list[float] = field(default_factory=list)

    def row(self, name: str) -> list[str]:
        """Return it as a row of a table."""
        kinds = (self.middle, self.last, self.agent, self.ready)
        return [name, *(spread(values, 2) if values else "" for values in kinds)]

    @property
    def longest(self) -> float:
        """Return the median of what took longest."""
        return max(statistics.median(values) for values in (self.last, self.ready) if values)


HEAD = ("seconds until", "a route in the middle is served", "the last route is", "the agent is connected", "/readyz")


class Restart:
    """Ours in all ways that it may start anew, and HAProxy's start with a map of as many hosts."""

    programs: Sequence[str] = ("haproxy",)

    def measure(self, *, short: bool, check: bool) -> Report:
        """Measure it, see `Scenario`."""
        number, rounds = (10_000, 1) if short else (20_000, 1) if check else (100_000, 5)
        table = Table(f"What starts anew, with {number:,} routes", HEAD)
        report = Report("restart", "Starting anew", "bin/bench restart", [table], unit="s", programs=self.programs)
        with stage() as place:
            targets = upstream(place, TARGETS)
            routes = {f"host{at}.bench.test": targets[at % TARGETS] for at in range(number)}
            node = Node(place, routes, Lair())
            table.notes.append(
                f"Written by the batch API, 10,000 a call: {node.written:.1f} s. Median of {rounds} (least to most). "
                "All files are in the page cache. The control plane and NGINX share one processor."
            )
            found = {name: repeat(kind, rounds) for name, kind in node.kinds.items()}
            peer = repeat(lambda starts: _haproxy(place, routes, starts), rounds)
        table.rows += [starts.row(name) for name, starts in found.items()]
        table.rows.append(peer.row("HAProxy with its map, which is written first"))
        seen, filled = node.seen, found[NGINX_ALONE]
        ratio = filled.longest / peer.longest
        table.notes += [
            f"While the control plane started anew, {seen.visits:,} visits to live routes were made, and "
            f"{len(seen.failures)} failed; the longest took {seen.longest * 1000:.0f} ms.",
            f"{NGINX_ALONE}: {ratio:.1f} times as long as HAProxy.",
        ]
        most = GENEROUS if check else PROMISE
        served = f"{number:,} routes are served again within {most:g} s: {{}}"
        report.promises = [
            (served.format(name), f"{found[name].longest:.2f} s", found[name].longest <= most)
            for name in (FROM_FILE, NGINX_ALONE)
        ]
        report.promises.append(
            ("no request fails while the control plane starts anew", f"{len(seen.failures)}", not seen.failures)
        )
        if check:
            report.promises.append(
                (
                    f"{NGINX_ALONE}: no more than {GENEROUS:g} times as long as HAProxy",
                    f"{ratio:.1f}",
                    ratio <= GENEROUS,
                )
            )
        report.bars = [*((f"SourceLair, {name}", starts.longest) for name, starts in found.items())]
        report.bars.append(("HAProxy, map", peer.longest))
        return report


def repeat(start: Callable[[Starts], None], rounds: int) -> Starts:
    """Return what so many starts took."""
    starts = Starts()
    for _ in range(rounds):
        start(starts)
    return starts


def _haproxy(place: Stage, routes: Routes, starts: Starts) -> None:
    began = time.monotonic()
    running = HaproxyMap().start(place, routes)
    note(running.port, routes, began, starts)
    for pid in running.pids():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def note(port: int, routes: Routes, began: float, starts: Starts, longest: float = LONGEST) -> None:
    """Note when a route in the middle and the last one were served. Raises RuntimeError: not in so many seconds."""
    hosts = list(routes)
    middle, last = until_served(port, [hosts[len(hosts) // 2], hosts[-1]], began, longest)
    starts.middle.append(middle)
    starts.last.append(last)


class Node:
    """One installation, and all ways in which it starts anew.

    Args:
        place: where.
        routes: all of its routes.
        lair: it; not started yet.
    """

    def __init__(self, place: Stage, routes: Routes, lair: Lair) -> None:
        self._place = place
        self._routes = routes
        self._lair = lair
        self._agent: subprocess.Popen[bytes] | None = None
        self.seen = Seen()
        """By all who visited while the control plane started anew."""
        self._lair.start(place, {}, LAIR_ROUTE_TABLE_BYTES=table_bytes(len(routes)))
        began = time.monotonic()
        self._lair.write(routes.items())
        self.written = time.monotonic() - began
        """Seconds that it took to write all routes."""
        note(self._lair.port, routes, time.monotonic(), Starts())
        self.kinds: dict[str, Callable[[Starts], None]] = {
            "NGINX": self._nginx,
            "the control plane": self._control_plane,
            "everything": self._everything,
            NEW_AGENT: self._new_agent,
            FROM_FILE: self._from_file,
            NGINX_ALONE: self._nginx,
        }
        """In this order: from `FROM_FILE` on the API is down."""

    def _nginx(self, starts: Starts) -> None:
        """Kill NGINX; whoever looks after it starts it again."""
        began = time.monotonic()
        self._lair.kill_nginx()
        note(self._lair.port, self._routes, began, starts)

    def _control_plane(self, starts: Starts) -> None:
        with visiting(self._lair.port, list(self._routes)[:VISITED]) as seen:
            began = time.monotonic()
            self._lair.end_control_plane(signal.SIGKILL)
            self._lair.up(self._place)
            self._note_ready(began, starts)
        self.seen.visits += seen.visits
        self.seen.failures += seen.failures
        self.seen.longest = max(self.seen.longest, seen.longest)

    def _new_agent(self, starts: Starts) -> None:
        """Start everything where the agent has no file: it asks the API for all routes."""
        self._lair.down()
        shutil.rmtree(self._lair.data_dir / "agent")
        self._up(starts)

    def _everything(self, starts: Starts) -> None:
        self._lair.down()
        self._up(starts)

    def _up(self, starts: Starts) -> None:
        began = time.monotonic()
        self._lair.up(self._place)
        note(self._lair.port, self._routes, began, starts)
        self._note_ready(began, starts)

    def _from_file(self, starts: Starts) -> None:
        self._lair.end_control_plane(signal.SIGTERM)
        if self._agent is not None:
            end(self._agent)
        self._lair.kill_nginx()
        began = time.monotonic()
        command = [sys.executable, bench.node.__file__]
        self._agent = self._place.spawn(command, env=self._lair.env, cwd=self._lair.data_dir.parent)
        note(self._lair.port, self._routes, began, starts)

    def _note_ready(self, began: float, starts: Starts) -> None:
        self._lair.until_ready("agent")
        starts.agent.append(time.monotonic() - began)
        self._lair.until_ready()
        starts.ready.append(time.monotonic() - began)
