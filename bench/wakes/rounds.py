"""Wakes one by one, in turn with the server's own start; and thaws.

Overhead is the difference of a pair: a wake's time, from the visitor's connect to the last byte of the answer, less the
own start of the same round; its percentiles are over all rounds. Both parts of a pair vary by themselves, and so a
pair's p99 is far above zero where nothing is added at all: what two own starts in turn differ by stands beside it, and
the difference of the percentiles.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from bench.machine import percentile
from bench.report import Table
from bench.wakes.servers import Kind, Question, ask, own_start
from tests.system.site import Site

from sourcelair.client.policy import SleepPolicy
from sourcelair.client.servers import SleepRequest, Timing

STEPS = ("gate", "queued", "stored", "spawned", "listening", "ready", "published")

HEAD = ("milliseconds", "p50", "p90", "p99", "most")


@dataclass
class Rounds:
    """Milliseconds of each round."""

    own: list[float] = field(default_factory=list)
    wake: list[float] = field(default_factory=list)
    timings: list[Timing] = field(default_factory=list)
    drains: list[float] = field(default_factory=list)
    """Of each stop: from the wish to the last word that nothing is sent there any more, with nothing in flight."""

    @property
    def overhead(self) -> list[float]:
        """Return what a wake took longer than the own start of the same round."""
        return [wake - own for wake, own in zip(self.wake, self.own, strict=True)]

    @property
    def noise(self) -> list[float]:
        """Return what each own start took longer than the one before: what a pair shows where nothing is added."""
        return [later - earlier for earlier, later in pairwise(self.own)]

    def added(self, part: float) -> float:
        """Return the difference of the percentiles."""
        return percentile(self.wake, part) - percentile(self.own, part)


def visit(site: Site, name: str, question: Question) -> float:
    """Return the milliseconds of one visit to `owner/project`."""
    began = time.perf_counter()
    ask(site.address[1], question, site.lair.host(name))
    return (time.perf_counter() - began) * 1000


async def wakes(site: Site, owner: str, kind: Kind, folder: Path, ports: Sequence[int], rounds: int) -> Rounds:
    """Measure the server's own start and a wake in turn.

    Args:
        site: the installation.
        owner: of this server alone: an owner's starts are counted, 600 in a minute.
        kind: of the server.
        folder: that it runs in.
        ports: for its own starts.
        rounds: how many pairs.
    """
    await site.put(owner, "server", list(kind.command), directory=folder, sleep=SleepPolicy(stop_grace=0))
    seen, since = Rounds(), (await site.servers.get(owner, "server")).revision
    for number in range(rounds + 1):
        own = await asyncio.to_thread(own_start, kind, folder, ports[number % len(ports)])
        wake = await asyncio.to_thread(visit, site, f"{owner}/server", kind.question)
        timing = (await site.until(owner, "server", "awake")).timing
        assert timing is not None
        await site.servers.stop(owner, "server")
        if number:  # the first one fills caches
            seen.own.append(own)
            seen.wake.append(wake)
            seen.timings.append(timing)
    seen.drains = (await _drains(site, owner, since))[1:]
    return seen


async def _drains(site: Site, owner: str, since: int) -> list[float]:
    """Return the milliseconds of each drain of its server, by the events since a revision."""
    last = (await site.until(owner, "server", "asleep")).revision
    began, taken = 0.0, list[float]()
    async with site.servers.events("/api/events", params={"from": since}) as events:
        async for event in events:
            server = event.json()["server"]
            if server is not None and server["owner"] == owner:
                if server["state"] == "draining":
                    began = server["changed_at"]
                elif server["state"] == "stopping" and began:
                    taken.append((server["changed_at"] - began) * 1000)
                    began = 0.0
            if int(event.id or 0) >= last:
                break
    return taken


async def thaws(site: Site, owner: str, kind: Kind, folder: Path, rounds: int) -> list[float]:
    """Return the milliseconds of visits to a server that dozes."""
    await site.put(owner, "dozes", list(kind.command), directory=folder)
    await asyncio.to_thread(visit, site, f"{owner}/dozes", kind.question)
    taken = []
    for _ in range(rounds):
        await _doze(site, owner, "dozes")
        taken.append(await asyncio.to_thread(visit, site, f"{owner}/dozes", kind.question))
    await site.servers.stop(owner, "dozes")
    return taken


async def _doze(site: Site, owner: str, project: str) -> None:
    """Put a server to doze; what the nodes counted is known a heartbeat later, and until then it is refused."""

    async def once() -> bool:
        instance = (await site.until(owner, project, "awake")).instance
        assert instance is not None
        (activity,) = await site.ceryx.activity([instance.id])
        request = SleepRequest(instance=instance.id, totals=activity.totals, mode="doze")
        return (await site.servers.sleep(owner, project, request)).slept

    await _until(once)
    await site.until(owner, project, "dozing")


async def _until(done: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(30):
        while not await done():
            await asyncio.sleep(0.02)


def row(name: str, values: Sequence[float]) -> list[str]:
    """Return a row of a table: p50, p90, p99 and the most, in milliseconds."""
    cells = [statistics.median(values), percentile(values, 0.9), percentile(values, 0.99), max(values)]
    return [name, *(f"{cell:.1f}" for cell in cells)]


def overhead_table(name: str, seen: Rounds) -> Table:
    """Return what the wakes of one server took."""
    rows = [
        row("its own start, without us", seen.own),
        row("a visit that wakes it", seen.wake),
        row("**overhead**, pair by pair", seen.overhead),
        row("the same of two own starts in turn", seen.noise),
        ["difference of the percentiles", *(f"{seen.added(part):.1f}" for part in (0.5, 0.9, 0.99)), ""],
    ]
    return Table(f"{name}, {len(seen.wake)} rounds", HEAD, [*rows])


def steps_table(seen: Mapping[str, Rounds]) -> Table:
    """Return where the time of wakes goes, in medians."""
    table = Table("Where a wake's time goes", ("median of each step, ms", *STEPS))
    table.notes.append(
        "`gate` is from the visitor's arrival until the SourceLair API is asked; every other step is counted from the "
        "end of the one before. `listening` and `ready` hold the server's own start."
    )
    for name, rounds in seen.items():
        cells, before = [], 0.0
        for step in STEPS:
            at = [value for timing in rounds.timings if (value := getattr(timing, step)) is not None]
            middle = statistics.median(at) if at else None
            if middle is None:
                cells.append("")
            elif step == "gate":
                cells.append(f"{middle:.1f}")
            else:
                cells.append(f"{middle - before:.1f}")
                before = middle
        table.rows.append([name, *cells])
    return table
