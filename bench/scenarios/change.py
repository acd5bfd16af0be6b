"""A route's change while the proxy runs: when it is served, how many a second, and what visitors notice of it.

Every proxy has the same table; the load, the visitors and the changes come from the other processors. A change begins
with the API's call, or with the move of a new file, and ends with the first answer of the new target to a visitor on a
new connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from bench import wrk
from bench.changing import ApiChanger, Changer, FileChanger, Rate, following
from bench.machine import load, percentile
from bench.peers.caddy import Caddy
from bench.peers.chp import ConfigurableHttpProxy
from bench.peers.envoy import Envoy
from bench.peers.lair import Lair
from bench.peers.nginx import upstream
from bench.peers.on_etcd import TraefikOnEtcd
from bench.peers.traefik import Traefik
from bench.report import Report, Table, spread
from bench.stage import LOAD_CPUS, Stage, stage, until_accepts
from bench.usage import cpu_seconds
from bench.visitors import Met, hold, visit

ROUTES = 1000
STEADY = 100
"""Hosts at the table's beginning that the load asks for, and that are never changed."""

CONNECTIONS = 8
"""Of the load: enough to keep a processor busy."""

SOCKETS, MOVING_SOCKETS = "sockets.example.com", "moving-sockets.example.com"
"""Hosts that lead to WebSockets; the route of the second is changed while they are open."""

HELD, MOVING_HELD = 16, 4
"""WebSockets of the two."""

VISITORS = 4
"""Connections on which a host is asked for whose route is changed all the time."""

PAUSE = 0.02
"""Seconds between two changes while something else is measured."""

QUICK = "1ms"
"""What Traefik's second trial is told to leave between two changes."""

PROMISE = 10.0
"""Milliseconds until a change is served, p99."""

ALLOWANCE, PART = 15.0, 20
"""For the check before a release: milliseconds, and what part of the peer's rate is enough."""

AnyPeer = Lair | ConfigurableHttpProxy | Caddy | Envoy | Traefik | TraefikOnEtcd


@dataclass(frozen=True, slots=True)
class Extent:
    """How much is measured."""

    rounds: int
    """Changes of each proxy, one by one."""
    turns: int
    """Turns of each proxy under load, and of its changes a second."""
    seconds: float
    """Of a turn."""


FULL, SHORT, CHECK = Extent(300, 3, 5), Extent(10, 1, 2), Extent(60, 1, 3)

LONGEST_REST, LOOK, AT_REST = 5.0, 0.02, 0.2
"""Seconds in which all proxies shall come to rest, seconds of a look, and the part of a processor that is rest."""

SLOW = 0.5
"""Seconds that a change may take, in its first round; a slower proxy has one in each `RARELY` rounds only."""

RARELY = 10


@dataclass
class Seen:
    """What one proxy did."""

    idle: list[float] = field(default_factory=list)
    """Milliseconds of each change."""
    loaded: list[float] = field(default_factory=list)
    load: list[wrk.Load] = field(default_factory=list)
    """What asked for other hosts meanwhile."""
    single: list[Rate] = field(default_factory=list)
    batches: list[Rate] = field(default_factory=list)
    met: Met = field(default_factory=Met)
    beside: list[wrk.Load] = field(default_factory=list)
    """What asked for other hosts while visitors were there."""
    changes: int = 0
    """While visitors were there."""


@dataclass
class Trial:
    """All proxies of a run, each with the same table."""

    changers: list[Changer]
    targets: list[int]
    """Of which a route has one or the other."""
    echoes: list[int]
    """Those for WebSockets."""
    moving: list[str]
    """Hosts whose routes are changed."""
    steady: list[str]
    seen: dict[str, Seen]

    def rest(self) -> None:
        """End a turn: close the connections to the APIs, and settle."""
        for changer in self.changers:
            changer.rest()
        self.settle()

    def settle(self) -> None:
        """Wait until no proxy works on after its turn, but not for ever: the next one would pay for it."""
        pids = [pid for changer in self.changers for pid in changer.pids]
        deadline = time.perf_counter() + LONGEST_REST
        while time.perf_counter() < deadline:
            before = cpu_seconds(pids)
            time.sleep(LOOK)
            if cpu_seconds(pids) - before < LOOK * AT_REST:
                return

    def move(self, changer: Changer, host: str) -> float:
        """Change a host's route to the next target; return the milliseconds until it is served."""
        return changer.once(host, following(changer.table[host], self.targets)) * 1000


def hosts(number: int, targets: Sequence[int]) -> dict[str, int]:
    """Return so many routes to these ports, in turn."""
    return {f"project-{at:05d}--owner-{at % 500:03d}.example.com": targets[at % len(targets)] for at in range(number)}


def start(place: Stage, peers: Sequence[AnyPeer]) -> Trial:
    """Start everything."""
    targets, echoes = upstream(place, 2), [place.free_port(), place.free_port()]
    command = [sys.executable, "-m", "bench.echo", *map(str, echoes)]
    echo = place.spawn(command, cpus=LOAD_CPUS, env={"PYTHONPATH": str(Path(__file__).parents[2])})
    until_accepts(echoes[-1], echo)
    public = hosts(ROUTES - 3, targets)
    # Envoy is told of the targets at its start only: of each there must be a route.
    routes = {**public, SOCKETS: echoes[0], MOVING_SOCKETS: echoes[0], "spare.example.com": echoes[1]}
    changers = list[Changer]()
    for peer in peers:
        sys.stderr.write(f"bench: change: starting {peer.name} with {len(routes):,} routes\n")
        if isinstance(peer, Envoy | Traefik):
            changers.append(FileChanger(place, peer, routes))
        else:
            changers.append(ApiChanger(place, peer, routes))
        if isinstance(peer, Lair):
            changers[-1].pids = peer.changing()
    names = list(public)
    seen = {changer.name: Seen() for changer in changers}
    return Trial(changers, targets, echoes, names[STEADY:], names[:STEADY], seen)


def idle(trial: Trial, rounds: int) -> None:
    """Change one route after the other, of each proxy in turn."""
    for number, host in enumerate(itertools.islice(itertools.cycle(trial.moving), rounds + 1)):
        for changer in trial.changers:
            known = trial.seen[changer.name].idle
            if number % RARELY == 0 or not known or known[0] < SLOW * 1000:
                known.append(trial.move(changer, host))
                trial.settle()
    trial.rest()
    for seen in trial.seen.values():
        del seen.idle[0]  # it opened connections and filled caches


def loaded(place: Stage, trial: Trial, turns: int, seconds: float) -> None:
    """Change routes while others are asked for as fast as they are answered."""
    folder = place.folder("load")
    for _ in range(turns):
        for changer in trial.changers:
            seen = trial.seen[changer.name]
            moving = itertools.cycle(trial.moving)
            with ThreadPoolExecutor(1) as thread:
                question = wrk.Question(trial.steady)
                asked = thread.submit(wrk.run, folder, changer.running.port, question, seconds, CONNECTIONS)
                time.sleep(0.3)  # until it is at work
                while not asked.done():
                    seen.loaded.append(trial.move(changer, next(moving)))
                    time.sleep(PAUSE)
                seen.load.append(asked.result())
            trial.rest()


async def rates(trial: Trial, turns: int, seconds: float) -> None:
    """Change as many routes as each proxy takes, for some seconds in turn."""
    for _ in range(turns):
        for changer in trial.changers:
            seen = trial.seen[changer.name]
            seen.single.append(await changer.single(trial.moving, trial.targets, seconds))
            batches = await changer.batches(trial.moving, trial.targets, seconds)
            if batches is not None:
                seen.batches.append(batches)
            trial.rest()


async def visits(place: Stage, trial: Trial, turns: int, seconds: float) -> None:
    """Change routes while visitors are there whose connections stay: WebSockets, requests, and the load."""
    folder = place.folder("load")
    for _ in range(turns):
        for changer in trial.changers:
            await _visited(folder, trial, changer, seconds)
            trial.rest()


async def _visited(folder: Path, trial: Trial, changer: Changer, seconds: float) -> None:
    seen, port, over = trial.seen[changer.name], changer.running.port, asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        held = (SOCKETS,) * HELD + (MOVING_SOCKETS,) * MOVING_HELD
        for host in held:
            tasks.create_task(hold(port, host, seen.met, over))
        before = seen.met.sockets
        while seen.met.sockets < before + len(held):
            await asyncio.sleep(0.01)
        for _ in range(VISITORS):
            tasks.create_task(visit(port, trial.moving[0], seen.met, over))
        tasks.create_task(_keep_changing(trial, changer, over))
        question = wrk.Question(trial.steady)
        seen.beside.append(await asyncio.to_thread(wrk.run, folder, port, question, seconds, CONNECTIONS))
        over.set()


async def _keep_changing(trial: Trial, changer: Changer, over: asyncio.Event) -> None:
    """Change what visitors hold and ask for, and what nobody does."""
    others = itertools.cycle(trial.moving[1:])
    for host in itertools.cycle((trial.moving[0], MOVING_SOCKETS, "")):
        if over.is_set():
            return
        where = host or next(others)
        targets = trial.echoes if where == MOVING_SOCKETS else trial.targets
        await changer.hand_over(where, following(changer.table[where], targets))
        trial.seen[changer.name].changes += 1
        await asyncio.sleep(PAUSE)


@contextlib.contextmanager
def beside_the_proxy() -> Iterator[None]:
    """Leave the proxy's processor to the proxy."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, LOAD_CPUS)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def measure(place: Stage, trial: Trial, extent: Extent) -> None:
    """Measure all of it."""
    idle(trial, extent.rounds)
    loaded(place, trial, extent.turns, extent.seconds)
    asyncio.run(rates(trial, extent.turns, extent.seconds))
    asyncio.run(visits(place, trial, extent.turns, extent.seconds))


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
