"""The hot path: what a proxied request costs, beside every peer and beside NGINX alone, in one run.

All proxies run at once, each on the same processor, and take turns of a second: noise of the machine meets all of them.
The first figure is the processor time per request of all of a proxy's processes.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from bench import sockets, wrk
from bench.peers.base import Peer, Routes, Running
from bench.peers.caddy import Caddy
from bench.peers.chp import ConfigurableHttpProxy
from bench.peers.envoy import Envoy
from bench.peers.haproxy import HaproxyMap
from bench.peers.lair import Lair
from bench.peers.nginx import Static, upstream
from bench.peers.traefik import Traefik
from bench.report import Report, Table, spread
from bench.stage import LOAD_CPUS, Stage, stage, until_accepts

SLICE = 1.0
"""Seconds of a turn."""

ROUNDS = 5
"""Turns of each proxy."""

CLOSE_ROUNDS = 4 * ROUNDS
"""Turns of those that are close to one another, where a promise is a ratio of two of them."""

ASKED = 1000
"""Hosts that are asked for, in turn; they lie all over the table."""

ROOT = Path(__file__).parents[2]

SMALL, LARGE, POST = "small answer", "100 kB answer", "POST of 10 kB"
BUSY = 0.9
"""Part of its processor that a proxy must use for its throughput to be its own limit."""

BARE, SIMPLE, DRESSED = Static("bare"), Static("simple"), Static("ours")
LAIR, MAP = Lair, HaproxyMap
CLOSE = (DRESSED, SIMPLE, BARE, LAIR, MAP)


@dataclass
class Seen:
    """What one proxy did in its turns: lists with a figure of each."""

    cpu: list[float] = field(default_factory=list)
    """Microseconds a request."""
    loads: list[wrk.Load] = field(default_factory=list)
    busy: list[float] = field(default_factory=list)
    """Part of one processor."""
    memory: int = 0
    """Bytes, at the end."""

    @property
    def middle(self) -> float:
        """Return the median of the processor time per request, in microseconds."""
        return statistics.median(self.cpu)


def names(number: int) -> list[str]:
    """Return so many public hosts, 42 characters each."""
    return [f"project-{at:07d}--owner-{at % 5000:04d}.example.com" for at in range(number)]


def hosts(number: int, targets: Sequence[int]) -> Routes:
    """Return so many routes to these ports, in turn."""
    return {host: targets[at % len(targets)] for at, host in enumerate(names(number))}


def sample(routes: Routes, number: int) -> list[str]:
    """Return so many hosts from all over the table, the same ones each time."""
    every = list(routes)
    step = max(1, len(every) // number)
    return every[::step][:number]


def all_peers() -> list[Peer]:
    """Return everything that is compared."""
    return [
        DRESSED,
        SIMPLE,
        BARE,
        LAIR(),
        MAP(),
        Envoy(),
        ConfigurableHttpProxy(),
        Traefik(),
        Caddy(),
    ]


def start(place: Stage, peers: Sequence[Peer], routes: Routes) -> dict[str, Running]:
    """Start those that take so many routes."""
    running = {}
    for peer in peers:
        if len(routes) <= peer.most_routes:
            sys.stderr.write(f"bench: hot: starting {peer.name} with {len(routes):,} routes\n")
            running[peer.name] = peer.start(place, routes)
    return running


def among(running: Mapping[str, Running], peers: Sequence[Peer | type[Peer]]) -> dict[str, Running]:
    """Return those of them that run."""
    return {peer.name: running[peer.name] for peer in peers if peer.name in running}


Turn = Callable[[int], wrk.Load]
"""Asks the proxy on a port for a second."""


def asking(place: Stage, question: wrk.Question) -> Turn:
    """Return what asks by wrk."""
    folder = place.folder("load")
    return lambda port: wrk.run(folder, port, question, SLICE)


def compare(running: Mapping[str, Running], turn: Turn, rounds: int) -> dict[str, Seen]:
    """Ask them in turn, and return what each did."""
    seen = {name: Seen() for name in running}
    for number in range(rounds + 1):
        for name, proxy in running.items():
            before = proxy.cpu()
            load = turn(proxy.port)
            spent = proxy.cpu() - before
            if number and load.requests:  # the first one opens connections and fills caches
                seen[name].cpu.append(spent / load.requests * 1e6)
                seen[name].busy.append(spent / load.seconds)
                seen[name].loads.append(load)
    for name, proxy in running.items():
        seen[name].memory = proxy.memory()
    return seen


def ratio(seen: Mapping[str, Seen], ours: str, other: str) -> float:
    """Return the median of the ratios of the same round."""
    return statistics.median(mine / theirs for mine, theirs in zip(seen[ours].cpu, seen[other].cpu, strict=True))


def table(title: str, seen: Mapping[str, Seen]) -> Table:
    """Return what was seen as a table."""
    head = [
        "proxy",
        "CPU us a request",
        "of NGINX's",
        "requests/s",
        "p50 ms",
        "p99 ms",
        "its processor busy",
        "failed",
        "MB",
    ]
    made = Table(title, head)
    for name, each in seen.items():
        if not each.cpu:
            made.rows.append([name, "no answer", *[""] * (len(head) - 2)])
            continue
        busy = statistics.median(each.busy)
        made.rows.append(
            [
                name,
                spread(each.cpu),
                f"{ratio(seen, name, DRESSED.name):.2f}" if DRESSED.name in seen else "",
                f"{statistics.median(load.rate for load in each.loads):,.0f}",
                f"{statistics.median(load.p50 for load in each.loads):.2f}",
                f"{statistics.median(load.p99 for load in each.loads):.2f}",
                f"{busy:.0%}" + ("" if busy >= BUSY else ": the load or the upstream is the limit"),
                str(sum(load.failed for load in each.loads)),
                f"{each.memory / 1e6:.0f}",
            ]
        )
    return made


class Hot:
    """The scenario."""

    programs = ("wrk", "haproxy", "envoy", "configurable-http-proxy", "traefik", "caddy")

    def measure(self, *, short: bool, check: bool) -> Report:
        """See `Scenario.measure`."""
        report = Report("hot", "The hot path", "bin/bench hot", programs=self.programs, unit="us of CPU a request")
        if check:
            _check(report)
            return report
        rounds, more = (1, 1) if short else (ROUNDS, CLOSE_ROUNDS)
        _routes(report, rounds, more, 20_000 if short else 1_000_000)
        _many_targets(report, rounds, more)
        _sockets(report, rounds)
        return report


def _routes(report: Report, rounds: int, more: int, most: int) -> None:
    """Measure more and more routes: one host that is asked for, and then a thousand all over the table."""
    growth = {}
    for number in (1, 100, 10_000, most):
        with stage() as place:
            routes = hosts(number, upstream(place, 1))
            running = start(place, all_peers(), routes)
            one = wrk.Question(sample(routes, 1))
            seen = compare(running, asking(place, one), rounds)
            report.tables.append(table(f"{number:,} routes, one host is asked for, {SMALL}", seen))
            if number == 10_000:
                report.bars = sorted(
                    ((name, each.middle) for name, each in seen.items() if each.cpu), key=lambda bar: bar[1]
                )
                close = compare(among(running, CLOSE), asking(place, one), more)
                report.tables.append(table(f"{number:,} routes, the same, those that are close in more turns", close))
                _promises(report, close)
                for title, question in (
                    (LARGE, replace(one, path="/large")),
                    (POST, replace(one, body_bytes=10_000)),
                ):
                    seen = compare(running, asking(place, question), rounds)
                    report.tables.append(table(f"{number:,} routes, one host is asked for, {title}", seen))
            if number >= 100:
                many = wrk.Question(sample(routes, ASKED))
                seen = compare(among(running, (DRESSED, LAIR, MAP)), asking(place, many), more)
                growth[number] = seen
                report.tables.append(table(f"{number:,} routes, {len(many.hosts):,} hosts are asked for in turn", seen))
    # Beside what needs no table: that the machine is slower now is no growth.
    least, now = (ratio(growth[number], LAIR.name, DRESSED.name) for number in (100, most))
    report.promises.append((f"{most:,} routes cost <= 1.3 x 100 routes", f"{now / least:.2f}", now <= 1.3 * least))


def _promises(report: Report, seen: Mapping[str, Seen]) -> None:
    dressed, haproxy = (ratio(seen, LAIR.name, other) for other in (DRESSED.name, MAP.name))
    simple, bare = (ratio(seen, LAIR.name, other.name) for other in (SIMPLE, BARE))
    report.promises += [
        ("10,000 routes: CPU a request <= 1.2 x NGINX's with our headers and log", f"{dressed:.2f}", dressed <= 1.2),
        ("HAProxy's map matched within noise (1.1 x)", f"{haproxy:.2f}", haproxy <= 1.1),
    ]
    report.tables[-1].notes.append(
        f"SourceLair: {simple:.2f} of an NGINX with simple headers and log, {bare:.2f} of a bare one. Our headers and "
        "log are the very directives of our configuration. Simple ones give the same for a usual request; but they "
        "believe the header where the request target names a host, write an IPv6 address as any other, and lines that "
        "are no JSON where a visitor sends what is no UTF-8."
    )


def _many_targets(report: Report, rounds: int, more: int) -> None:
    number = 2000
    with stage() as place:
        targets = upstream(place, number)
        routes = {**hosts(10_000, targets[:1]), **hosts(number, targets)}
        running = start(place, all_peers(), routes)
        question = wrk.Question(names(number))
        seen = compare(running, asking(place, question), rounds)
        report.tables.append(table(f"10,000 routes, {number:,} live targets, {SMALL}", seen))
        close = compare(among(running, (DRESSED, LAIR)), asking(place, question), more)
        report.tables.append(table(f"{number:,} live targets, those that are close in more turns", close))
        many = ratio(close, LAIR.name, DRESSED.name)
        report.promises.append(("2,000 live targets: <= 1.8 x NGINX's with one", f"{many:.2f}", many <= 1.8))


def _sockets(report: Report, rounds: int) -> None:
    with stage() as place:
        target = place.free_port()
        command, folder = [sys.executable, "-m", "bench.echo", str(target)], place.folder("echo")
        echo = place.spawn(command, cpus=LOAD_CPUS, cwd=folder, env={"PYTHONPATH": str(ROOT)})
        until_accepts(target, echo)
        routes = hosts(1000, [target])
        running = start(place, all_peers(), routes)
        host = next(iter(routes))
        seen = compare(running, lambda port: sockets.run(port, host, SLICE), rounds)
        report.tables.append(table("1,000 routes, WebSocket: messages of 32 bytes to and fro", seen))


def _check(report: Report) -> None:
    with stage() as place:
        routes = hosts(1000, upstream(place, 1))
        running = start(place, [DRESSED, LAIR()], routes)
        seen = compare(running, asking(place, wrk.Question(sample(routes, 1))), 5)
        found = ratio(seen, LAIR.name, DRESSED.name)
        report.tables.append(table(f"1,000 routes, {SMALL}", seen))
        report.promises.append(
            ("CPU a request <= 1.5 x NGINX's with our headers and log", f"{found:.2f}", found <= 1.5)
        )
