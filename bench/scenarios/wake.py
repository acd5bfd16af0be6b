"""Waking: what it adds to a server's own start, one by one and in crowds, and beside JupyterHub.

The server's own start is measured in the same run, in turn with the wakes: the same command is spawned here with a
free port, and asked in a tight loop until it answers. Everything may use all processors: a server that starts needs
more of them than what waits for it.
"""

from __future__ import annotations

import asyncio
import resource
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.machine import load, percentile, syncs
from bench.report import Report, Table
from bench.stage import LONGEST, Stage, stage
from bench.wakes import jupyterhub
from bench.wakes.crowds import Herds, Many, cells, errors, herds, many
from bench.wakes.rounds import HEAD, Rounds, overhead_table, row, steps_table, thaws, wakes
from bench.wakes.servers import Kind, kinds
from tests.ports import claimed_stretch
from tests.system.lair import running_lair
from tests.system.site import Site, site_of

from sourcelair.settings import Settings

LEAST_PORTS = 100
"""Ports for our servers, and as many for own starts, where few are woken at once: each rests for some starts."""

OWNERS = 10
"""Owners of the many servers that are woken at once."""

DESCRIPTORS = 20_000
"""Each visitor of a herd takes one here, and two of NGINX."""

STARTING = int(Settings.model_fields["max_starting"].default)
"""Servers that may be starting at once, which is not changed here."""


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured."""

    rounds: int
    herd: int
    many: int
    thaws: int
    peer: int
    """Rounds of a peer."""
    turns: int
    """Of herds, and of many at once."""


FULL = Size(rounds=200, herd=2000, many=200, thaws=200, peer=40, turns=3)
SHORT = Size(rounds=10, herd=200, many=20, thaws=10, peer=3, turns=1)
CHECK = Size(rounds=30, herd=500, many=0, thaws=0, peer=0, turns=1)


@dataclass
class Seen:
    """All that was measured."""

    disk: list[float]
    """Milliseconds of each fsync."""
    loads: tuple[float, float]
    rounds: dict[str, Rounds]
    herds: Herds
    many: dict[str, Many]
    """By kind of server."""
    thaws: list[float]


class Wake:
    """The scenario."""

    programs: Sequence[str] = ("jupyterhub", "configurable-http-proxy")

    def measure(self, *, short: bool, check: bool) -> Report:
        """See `Scenario.measure`."""
        size = CHECK if check else SHORT if short else FULL
        report = Report("wake", "What waking adds", "bin/bench wake", programs=self.programs, unit="ms")
        _allow_descriptors()
        # A server that was stopped keeps its port for a while, and the next turn needs as many again.
        number = max(LEAST_PORTS, 2 * size.many)
        with stage() as place, claimed_stretch(2 * number) as ports:
            given, own = ports[:number], ports[number:]
            seen = asyncio.run(_ours(place, given, own, size))
            if check:
                _check(report, seen)
                return report
            _progress("JupyterHub")
            hub = jupyterhub.measured(place, own, size.peer)
        _promise(report, seen)
        report.tables += [_peers(seen.rounds, hub), *_tables(seen, size)]
        report.bars = [
            *((f"SourceLair, {name}", statistics.median(each.overhead)) for name, each in seen.rounds.items()),
            ("JupyterHub, python -m http.server", statistics.median(hub.overhead)),
        ]
        return report


async def _ours(place: Stage, given: range, own: range, size: Size) -> Seen:
    """Measure one installation of ours; with no servers to wake at once, only what the regression check needs."""
    folder = place.folder("servers")
    every = kinds(folder)
    settings = {"LAIR_PORT_RANGE": f"{given[0]}-{given[-1]}"}
    before = load()
    with running_lair(place.folder("lair"), settings) as lair:
        async with asyncio.timeout(LONGEST), site_of(lair) as site:
            disk = syncs(lair.data_dir)
            rounds = {}
            for number, kind in enumerate(every if size.many else every[:1]):
                _progress(kind.name)
                rounds[kind.name] = await wakes(site, f"rounds{number}", kind, folder, own, size.rounds)
            taken: list[float] = []
            if size.thaws:
                _progress("thaws")
                taken = await thaws(site, "thaws", every[0], folder, size.thaws)
            _progress("a herd")
            crowded = await herds(site, "herd", every[0], folder / "herd", size.herd, size.turns)
            crowds = await _crowds(site, folder, [every[0], every[2]], own, size) if size.many else {}
    return Seen(disk, (before, load()), rounds, crowded, crowds, taken)


async def _crowds(site: Site, folder: Path, every: list[Kind], own: range, size: Size) -> dict[str, Many]:
    seen = {}
    for number, kind in enumerate(every):
        _progress(f"{size.many} servers at once: {kind.name}")
        owners = [f"crowd{number}-{owner}" for owner in range(OWNERS)]
        seen[kind.name] = await many(site, owners, kind, folder, own[: size.many], STARTING, size.turns)
    return seen


def _allow_descriptors() -> None:
    """Let this process and what it starts have as many descriptors as a herd takes, as far as they may."""
    soft, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < DESCRIPTORS and soft != resource.RLIM_INFINITY:
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (DESCRIPTORS if most == resource.RLIM_INFINITY else min(most, DESCRIPTORS), most)
        )


def _progress(what: str) -> None:
    sys.stderr.write(f"bench: wake: {what}\n")


def _check(report: Report, seen: Seen) -> None:
    """Within bounds that a busy machine keeps, too: what slows us slows the server's own start as well."""
    for name, each in seen.rounds.items():
        middle, own = statistics.median(each.overhead), statistics.median(each.own)
        what = f"{name}: overhead p50 <= 40 ms, or 10 x its own start"
        report.promises.append((what, f"{middle:.1f} ms, own {own:.1f} ms", middle <= max(40, 10 * own)))
    _promise_herd(report, seen)


def _promise(report: Report, seen: Seen) -> None:
    disk = f"fsync p99 {percentile(seen.disk, 0.99):.2f} ms"
    for name, each in seen.rounds.items():
        middle, most, added = statistics.median(each.overhead), percentile(each.overhead, 0.99), each.added(0.99)
        noise = percentile(each.noise, 0.99)
        figure = f"{middle:.1f} ms, {added:.1f} ms (pair by pair {most:.1f}, two own starts {noise:.1f}); {disk}"
        holds = middle <= 10 and added <= 30
        report.promises.append((f"{name}: overhead p50 <= 10 ms, p99 <= 30 ms", figure, holds))
    _promise_herd(report, seen)
    drains = next(iter(seen.rounds.values())).drains
    middle, most = statistics.median(drains), percentile(drains, 0.99)
    report.promises.append(
        ("a drain with nothing in flight: p50 <= 10 ms", f"{middle:.1f} ms, p99 {most:.1f} ms", middle <= 10)
    )
    most = percentile(seen.thaws, 0.99)
    report.promises.append(("a visit to what dozes: p99 <= 20 ms", f"{most:.1f} ms", most <= 20))


def _promise_herd(report: Report, seen: Seen) -> None:
    crowds, starts = seen.herds.asleep, max(seen.herds.starts)
    failed = sum(crowd.failed for crowd in crowds)
    what = f"{len(crowds[0].taken) + crowds[0].failed:,} requests at once on one sleeping server: 1 start, 0 errors"
    report.promises.append((what, f"{starts} start, {failed} errors", starts == 1 and not failed))


def _tables(seen: Seen, size: Size) -> list[Table]:
    tables = [overhead_table(name, each) for name, each in seen.rounds.items()]
    tables[0].notes += [
        f"fsync of this disk: p50 {statistics.median(seen.disk):.2f} ms, p99 {percentile(seen.disk, 0.99):.2f} ms.",
        f"Processes that wanted to run before and after, on average: {seen.loads[0]:.1f}, {seen.loads[1]:.1f}.",
    ]
    drained = Table("Drains of stops, with nothing in flight", HEAD)
    drained.rows += [row(name, each.drains) for name, each in seen.rounds.items()]
    dozing = Table(f"From dozing to the last byte, {len(seen.thaws)} rounds", HEAD, [row("a visit", seen.thaws)])
    return [
        *tables,
        steps_table(seen.rounds),
        _herds_table(seen.herds, size),
        _many_table(seen.many, size),
        drained,
        dozing,
    ]


def _herds_table(seen: Herds, size: Size) -> Table:
    starts = ", ".join(map(str, seen.starts))
    return Table(
        f"{size.herd:,} requests at once on one server",
        ("the server", "starts", "errors", "p50 ms", "p99 ms", "last answer ms"),
        [["asleep", starts, *cells(seen.asleep)], ["awake", "", *cells(seen.awake)]],
        [
            f"Turns: {size.turns}. It is the tiny C server; client, NGINX and server share the processors.",
            *errors([*seen.asleep, *seen.awake]),
        ],
    )


def _many_table(seen: Mapping[str, Many], size: Size) -> Table:
    table = Table(
        f"{size.many} sleeping servers woken at once",
        ("milliseconds from the burst on", "errors", "p50", "p99", "last answer"),
    )
    table.notes.append(
        f"Turns: {size.turns}. The servers are of {OWNERS} owners. All settings as they come: {STARTING} servers may "
        "be starting at once, and so many are started at once without us, too."
    )
    for name, each in seen.items():
        table.rows.append([f"{name}: visits that wake them", *cells(each.visits)])
        table.rows.append([f"{name}: own starts, {STARTING} at once, without us", *cells(each.own)])
        table.notes += errors([*each.visits, *each.own])
    return table


def _peers(ours: Mapping[str, Rounds], hub: Rounds) -> Table:
    """Return our overhead beside that of others."""
    name = "python -m http.server, GET"
    return Table(
        "Overhead beside others, with python -m http.server",
        HEAD,
        [
            row("SourceLair: a visit", ours[name].overhead),
            row(f"JupyterHub: start by its API, then a visit, {len(hub.own)} rounds", hub.overhead),
            ["Sablier: not measured", "", "", "", ""],
        ],
        [
            "Each round's own start of the same command is taken off. JupyterHub runs it with its "
            "`SimpleLocalProcessSpawner`, behind configurable-http-proxy; login and waiting page are not counted. It "
            "looks for the server after a random wait of up to 0.2 s, then of up to 0.4 s, and so on.",
            "Sablier could not be run: the Go module proxy refuses its module (403, `github.com/sablierapp/sablier`, "
            "its former path `github.com/acouvreur/sablier` too), and its container image is in a registry that was "
            "out of reach. Its own documentation (reference/performance.md) has one cold request by the blocking "
            "strategy, which took 5.02 s with a container that needs about 1 s to start.",
        ],
    )
