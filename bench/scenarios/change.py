"""A route's change while the proxy runs: when it is served, how many a second, and what visitors notice of it."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from bench.machine import load, percentile
from bench.peers.caddy import Caddy
from bench.peers.chp import ConfigurableHttpProxy
from bench.peers.envoy import Envoy
from bench.peers.lair import Lair
from bench.peers.traefik import Traefik
from bench.report import Report, Table, spread
from bench.stage import stage
from bench.trial import (
    CONNECTIONS,
    HELD,
    MOVING_HELD,
    ROUTES,
    STEADY,
    VISITORS,
    AnyPeer,
    Extent,
    Seen,
    beside_the_proxy,
    measure,
    start,
)

QUICK = "1ms"
"""What Traefik's second trial is told to leave between two changes."""

PROMISE = 10.0
"""Milliseconds until a change is served, p99."""

ALLOWANCE, PART = 15.0, 20
"""For the check before a release: milliseconds, and what part of the peer's rate is enough."""

FULL, SHORT, CHECK = Extent(300, 3, 5), Extent(10, 1, 2), Extent(60, 1, 3)


def run(peers: Sequence[AnyPeer], extent: Extent) -> dict[str, Seen]:
    """Start everything, and measure all of it."""
    with stage() as place, beside_the_proxy():
        trial = start(place, peers)
        measure(place, trial, extent)
        return trial.seen


def latency_table(seen: Mapping[str, Seen]) -> Table:
    """Return when changes were served."""
    head = ["proxy", "idle p50 ms", "p99", "changes", "under load p50 ms", "p99", "changes", "load, requests/s"]
    table = Table(f"From a change's beginning until it is served, {ROUTES:,} routes", head)
    for name, each in seen.items():
        row = [name]
        for values in (each.idle, each.loaded):
            row += [spread(values), f"{percentile(values, 0.99):.1f}", str(len(values))]
        table.rows.append([*row, f"{statistics.median(load.rate for load in each.load):,.0f}"])
    table.notes.append(
        f"Under load: {CONNECTIONS} connections ask for {STEADY} other hosts as fast as they are answered."
    )
    return table


def rate_table(seen: Mapping[str, Seen]) -> Table:
    """Return how many changes each takes."""
    batch = ROUTES - 3 - STEADY
    head = ["proxy"]
    for how in ("one by one", f"{batch} at once"):
        head += [f"changes/s, {how}", "CPU us a change"]
    head.append("not as asked afterwards")
    table = Table("Changes a second, until the last one is served", head)
    for name, each in seen.items():
        row = [name]
        for those in (each.single, each.batches):
            few = bool(those) and min(rate.rate for rate in those) < 10
            row.append(spread([rate.rate for rate in those], int(few)) if those else "can't")
            row.append(spread([rate.cpu for rate in those], 0) if those else "")
        table.rows.append([*row, str(sum(rate.wrong for rate in (*each.single, *each.batches)))])
    table.notes += [
        "One by one: over as many connections at once as suit the API; where a file is replaced, each time with one "
        "change, once the change before is served. The time that it takes to make the file is left out.",
        "The processor time is that of all of a proxy's processes, its control plane's too, and that of the visits "
        "which look for the last change is in it.",
        "Traefik takes no new change for two seconds after one, unless it is told otherwise.",
    ]
    return table


def visitor_table(seen: Mapping[str, Seen]) -> Table:
    """Return what visitors noticed."""
    head = [
        "proxy",
        "changes",
        "requests of the load",
        "failed",
        "requests to the moving host",
        "failed",
        "WebSockets",
        "dropped",
    ]
    table = Table("What visitors notice of changes", head)
    for name, each in seen.items():
        counts = (
            each.changes,
            sum(load.requests for load in each.beside),
            sum(load.failed for load in each.beside),
            each.met.requests,
            each.met.failed,
            each.met.sockets,
            each.met.dropped,
        )
        table.rows.append([name, *(f"{count:,}" for count in counts)])
    table.notes.append(
        f"{HELD} WebSockets to a target whose route stays, and {MOVING_HELD} that were opened before their route was "
        f"changed to another target. {VISITORS} connections ask for a host whose route is changed to and fro. Failed: "
        "the connection broke, or the answer was not 2xx; nothing is tried again."
    )
    return table


def promises(ours: Seen, most: float) -> list[tuple[str, str, bool]]:
    """Return which promises hold, see `Report.promises`; a change may take so many milliseconds."""
    late = percentile(ours.idle, 0.99)
    single, batches = (statistics.median(rate.rate for rate in rates) for rates in (ours.single, ours.batches))
    return [
        (f"a change is served in <= {most:g} ms, p99, idle", f"{late:.1f} ms", late <= most),
        ("2,000 changes a second, one by one", f"{single:,.0f}", single >= 2000),
        ("2,000 changes a second, in batches", f"{batches:,.0f}", batches >= 2000),
        *unnoticed(ours),
    ]


def unnoticed(seen: Seen) -> list[tuple[str, str, bool]]:
    """Return whether visitors noticed nothing of changes, see `Report.promises`."""
    failed = seen.met.failed + sum(load.failed for load in (*seen.load, *seen.beside))
    wrong = sum(rate.wrong for rate in (*seen.single, *seen.batches))
    return [
        ("no request fails because of changes", str(failed), failed == 0),
        ("no WebSocket is dropped because of changes", str(seen.met.dropped), seen.met.dropped == 0),
        ("every host leads to its last target after many changes", str(wrong), wrong == 0),
    ]


class Change:
    """The scenario."""

    programs = ("wrk", "envoy", "configurable-http-proxy", "traefik", "caddy")

    def measure(self, *, short: bool, check: bool) -> Report:
        """See `Scenario.measure`."""
        report = Report("change", "A route's change", "bin/bench change", programs=self.programs)
        before = load()
        if check:
            seen = run([Lair(), ConfigurableHttpProxy()], CHECK)
            self._check(report, seen)
        else:
            peers: list[AnyPeer] = [Lair(), ConfigurableHttpProxy(), Caddy(), Envoy(), Traefik(), Traefik(QUICK)]
            seen = run(peers, SHORT if short else FULL)
            report.promises += promises(seen[Lair.name], PROMISE)
        report.tables += [latency_table(seen), rate_table(seen), visitor_table(seen)]
        report.tables[0].notes.append(f"Processes that wanted to run before and after: {before:.1f}, {load():.1f}.")
        report.bars = sorted(
            ((name, statistics.median(each.idle)) for name, each in seen.items()), key=lambda bar: bar[1]
        )
        report.unit = "ms until a change is served"
        return report

    def _check(self, report: Report, seen: Mapping[str, Seen]) -> None:
        ours, theirs = seen[Lair.name], seen[ConfigurableHttpProxy.name]
        for what, mine, other in (
            ("idle", ours.idle, theirs.idle),
            ("under load", ours.loaded, theirs.loaded),
        ):
            own, peer = statistics.median(mine), statistics.median(other)
            report.promises.append(
                (
                    f"a change, {what}: p50 <= 2 x configurable-http-proxy's + {ALLOWANCE:g} ms",
                    f"{own:.1f} ms, {peer:.1f} ms",
                    own <= 2 * peer + ALLOWANCE,
                )
            )
        single, others = (statistics.median(rate.rate for rate in each.single) for each in (ours, theirs))
        report.promises += [
            (
                f"changes a second, one by one >= 1/{PART} of configurable-http-proxy's",
                f"{single:,.0f}, {others:,.0f}",
                single >= others / PART,
            ),
            *unnoticed(ours),
        ]
