"""Routes in a cluster of etcd: changes, outages, restarts and growth, beside SQLite, and beside Traefik on etcd."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from bench import growth, outages
from bench.etcd import MEMBERS, Etcd
from bench.machine import load, percentile, syncs
from bench.peers.base import Routes, Running
from bench.peers.lair import Lair
from bench.peers.nginx import upstream
from bench.peers.on_etcd import LairOnEtcd, TraefikOnEtcd
from bench.report import Report, Table
from bench.scenarios import change, restart
from bench.scenarios.restart import Starts
from bench.stage import Stage, stage
from bench.trial import AnyPeer, Extent, Seen, beside_the_proxy, measure, start

PROMISE = 25.0
"""Milliseconds until a change is served with the routes in etcd, p99."""

GENEROUS = 4.0
"""Times as long as on SQLite, with `change.ALLOWANCE` on top, that the regression check allows for a change."""

NOT_SERVED = 10.0
"""Seconds after which a route that is not served counts as not served."""


@dataclass(frozen=True, slots=True)
class Work:
    """How much is measured."""

    changes: Extent
    away: float
    """Seconds that visitors are seen without the control plane."""
    away_long: float
    """Seconds without etcd: well over the ten of the lease, or the control plane does not end."""
    restarted: int
    """Routes of what starts anew."""
    rounds: int
    grown: Sequence[int]
    longest: float
    """Seconds that one step of growth may take."""


FULL = Work(Extent(200, 3, 2), 6, 16, 100_000, 2, (10_000, 100_000, 1_000_000), 60)
SHORT = Work(Extent(10, 1, 1), 3, 3, 2_000, 1, (1_000, 3_000), 5)
CHECK = Work(Extent(40, 1, 2), 4, 16, 20_000, 1, (), 0)


class EtcdStore:
    """The scenario."""

    programs = ("wrk", "etcd", "traefik")

    def measure(self, *, short: bool, check: bool) -> Report:
        """See `Scenario.measure`."""
        report = Report("etcd", "Routes in etcd", "bin/bench etcd", programs=self.programs)
        work, before = CHECK if check else SHORT if short else FULL, load()
        _changes(report, work, check)
        _restarts(report, work, check)
        if work.grown:
            _growth(report, work)
        report.tables[0].notes += [
            f"etcd: {MEMBERS} members on the load's processors, with their data on the same disk, fsync and all.",
            f"Processes that wanted to run before and after: {before:.1f}, {load():.1f}.",
        ]
        return report


def _changes(report: Report, work: Work, check: bool) -> None:
    """Measure changes, and what visitors notice while parts are away."""
    with stage() as place, beside_the_proxy():
        etcd = Etcd(place)
        peers: list[AnyPeer] = [Lair(), LairOnEtcd(etcd)]
        if not check:
            peers.append(TraefikOnEtcd(etcd, change.QUICK))  # by itself, with 2 s between changes, it is the slower one
        disk = percentile(syncs(place.directory), 0.99)
        trial = start(place, peers)
        measure(place, trial, work.changes)
        away = outages.Outages(place, trial, etcd)
        for changer, peer in zip(trial.changers, peers, strict=True):
            if isinstance(peer, LairOnEtcd):
                away.ours(changer, peer, work.away, work.away_long)
            elif isinstance(peer, TraefikOnEtcd):
                away.peer(changer, work.away)
    seen = trial.seen
    sqlite, etcds = seen[Lair.name], seen[LairOnEtcd.name]
    if check:
        report.promises += _checked(sqlite, etcds)
    else:
        for name, each, most in ((Lair.name, sqlite, change.PROMISE), (LairOnEtcd.name, etcds, PROMISE)):
            report.promises += [
                (f"{name}: {what}", figure, holds) for what, figure, holds in change.promises(each, most)
            ]
    for outage in away.found:
        if outage.proxy == LairOnEtcd.name:
            what = f"nothing fails after kill -9: {outage.killed}"
            figure = f"{outage.failed} requests, {outage.met.dropped} WebSockets"
            report.promises.append((what, figure, outage.failed + outage.met.dropped == 0))
    report.tables += [change.latency_table(seen), change.rate_table(seen), change.visitor_table(seen)]
    report.tables[0].notes.append(
        f"fsync of this disk: p99 {disk:.2f} ms. A change of Traefik's is one key, written over etcd's JSON gateway."
    )
    report.tables[1].notes.append(
        "In etcd: the processor time of its three members is in it. Traefik's API is etcd, which takes every change; "
        "Traefik serves the last ones, and never those that another change of the same route followed within its "
        "pause. It lists all of its keys for each change, and is busy with that for long after the last one is served."
    )
    report.tables.append(outages.table(away.found))
    report.bars = sorted(((name, statistics.median(each.idle)) for name, each in seen.items()), key=lambda bar: bar[1])
    report.unit = "ms until a change is served"


def _checked(sqlite: Seen, etcd: Seen) -> list[tuple[str, str, bool]]:
    ours, other = (statistics.median(each.idle) for each in (etcd, sqlite))
    most = GENEROUS * other + change.ALLOWANCE
    what = f"a change in etcd, idle: p50 <= {GENEROUS:g} x SQLite's + {change.ALLOWANCE:g} ms"
    return [(what, f"{ours:.1f} ms, {other:.1f} ms", ours <= most), *change.unnoticed(etcd)]


def _restarts(report: Report, work: Work, check: bool) -> None:
    """Measure what starts anew: ours on both stores, and Traefik on etcd."""
    table = Table(f"What starts anew, with {work.restarted:,} routes", ("proxy", "seconds until", *restart.HEAD[1:]))
    found = dict[str, Starts]()
    with stage() as place:
        targets = upstream(place, restart.TARGETS)
        routes = {f"host{at}.bench.test": targets[at % len(targets)] for at in range(work.restarted)}
        etcd = Etcd(place)
        for lair in (LairOnEtcd(etcd),) if check else (Lair(), LairOnEtcd(etcd)):
            found = _restarted(place, lair, routes, work.rounds)
            table.rows += [[lair.name, *starts.row(name)] for name, starts in found.items()]
        if not check:
            etcd.start()
            table.rows += _traefik(place, etcd, dict(itertools.islice(routes.items(), TraefikOnEtcd.most_routes)))
    table.notes.append(
        f"Median of {work.rounds} (least to most). Where the API is down, all members of etcd are killed, too. Not "
        f"served: not within {NOT_SERVED:g} s."
    )
    most = restart.GENEROUS if check else restart.PROMISE
    for name in (restart.FROM_FILE, restart.NGINX_ALONE):
        longest = found[name].longest
        what = f"{work.restarted:,} routes are served again within {most:g} s: {name}, etcd too"
        report.promises.append((what, f"{longest:.2f} s", longest <= most))
    report.tables.append(table)


def _restarted(place: Stage, lair: Lair, routes: Routes, rounds: int) -> dict[str, Starts]:
    """Start one installation anew in all ways."""
    sys.stderr.write(f"bench: etcd: {lair.name} starts anew\n")
    node, found = restart.Node(place, routes, lair), dict[str, Starts]()
    for name, kind in node.kinds.items():
        if name == restart.FROM_FILE:
            lair.end_control_plane(signal.SIGTERM)
            if isinstance(lair, LairOnEtcd):
                lair.etcd.kill()
        found[name] = restart.repeat(kind, rounds)
    return found


def _traefik(place: Stage, etcd: Etcd, routes: Routes) -> list[list[str]]:
    """Start Traefik anew, with etcd and without it; return rows of the table."""
    traefik, rows = TraefikOnEtcd(etcd), list[list[str]]()
    _kill(traefik.start(place, routes))
    for what in (f"{len(routes):,} routes", "etcd killed"):
        if rows:
            etcd.kill()
        starts, began = Starts(), time.monotonic()
        running = traefik.up(place)
        cells = [what, *("not served",) * 2, "", ""]
        with contextlib.suppress(RuntimeError):
            restart.note(running.port, routes, began, starts, NOT_SERVED)
            cells = starts.row(what)
        rows.append([traefik.name, *cells])
        _kill(running)
    return rows


def _kill(running: Running) -> None:
    for pid in running.pids():
        os.kill(pid, signal.SIGKILL)


def _growth(report: Report, work: Work) -> None:
    """Measure what more and more routes take on each store."""
    table = growth.table(work.longest)
    for on_etcd in (False, True):
        with stage() as place:
            etcd = Etcd(place) if on_etcd else None
            lair = LairOnEtcd(etcd) if etcd else Lair()
            sys.stderr.write(f"bench: etcd: {lair.name} grows\n")
            growing = growth.Growing(place, lair, etcd, upstream(place, restart.TARGETS), work.grown[-1])
            table.rows += [growing.grow(number, work.longest) for number in work.grown]
    report.tables.append(table)
