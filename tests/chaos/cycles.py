"""One experiment: N times awake and asleep again under constant traffic; nothing fails, nothing doubles, nothing stays.

`bin/chaos --cycles 1000 --kind all --workers 4` prints the figures; a short form is in the tests.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tests.chaos.leftovers import orphans
from tests.chaos.visits import Books, Visits, beats, visits
from tests.system.site import App, Site

Kind = Literal["idle", "explicit", "doze", "beat"]

BURST = 6
"""Requests that are answered between two idle stops; then comes a gap, or nothing would ever be idle."""

GAP = 0.1
"""Seconds between two tries of an idle stop."""

SIDE_BY_SIDE = 5
"""Servers whose cycles run side by side where each waits for its gaps most of the time."""

KEEP_ALIVE = 1.0
"""Seconds after which the app of `beat` closes an idle connection: just when the proxy does."""


@dataclass
class Outcome:
    """What came of it. `drains` are seconds from asking for a stop to being asleep; `odd` is what must not be."""

    cycles: int = 0
    refused: int = 0
    drains: list[float] = field(default_factory=list)
    seen: Visits = field(default_factory=lambda: Visits("all"))
    doubled: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    odd: list[str] = field(default_factory=list)

    @property
    def problems(self) -> list[str]:
        """Return all that must not be, in words."""
        return [
            *self.seen.failures,
            *(f"{number} arrived more than once" for number in self.doubled),
            *(f"{number} was answered, and never arrived" for number in self.lost),
            *(f"{what} was left behind" for what in self.left),
            *self.odd,
        ]

    def line(self) -> str:
        """Return one line of a table."""
        drains = sorted(self.drains) or [0.0]
        p50, p99 = statistics.median(drains) * 1000, drains[min(len(drains) - 1, int(len(drains) * 0.99))] * 1000
        return (
            f"{self.cycles} cycles, {len(self.seen.sent)} requests, {self.seen.handshakes} WebSockets with "
            f"{len(self.seen.said)} messages ({self.seen.closed} closed by a stop): {len(self.seen.failures)} failed, "
            f"{len(self.doubled)} doubled, {len(self.lost)} lost, {len(self.left)} orphans; "
            f"{self.refused} stops cancelled, stop p50 {p50:.0f} ms p99 {p99:.0f} ms"
        )


async def timed(outcome: Outcome, stop: Callable[[], Awaitable[object]]) -> bool:
    """Stop once; return whether it did."""
    began = time.perf_counter()
    slept = bool(await stop())
    if slept:
        outcome.drains.append(time.perf_counter() - began)
        outcome.cycles += 1
    else:
        outcome.refused += 1
    return slept


async def reached(seen: Visits, answers: int) -> None:
    """Wait until so many more requests were answered, or one failed."""
    goal = len(seen.answered) + answers
    async with asyncio.timeout(60):
        while len(seen.answered) < goal and not seen.failures:
            await asyncio.sleep(0.005)


async def explicit_cycles(app: App, cycles: int) -> Outcome:
    """Visitors never pause; each stop is explicit, and the next visitor wakes the next instance."""
    outcome = Outcome()
    async with visits(app, visitors=4, gap=0.005, prefix="e", talkers=2, may_be_closed=True) as seen:
        while outcome.cycles < cycles and not seen.failures:
            await reached(seen, 8)
            await timed(outcome, app.stop)
    outcome.seen.add(seen)
    return outcome


async def beat_cycles(app: App, cycles: int) -> Outcome:
    """All visitors come at the beat of keep-alive, so that each request meets a connection that is just closing."""
    outcome = Outcome()
    async with beats(app, visitors=8, beat=KEEP_ALIVE, prefix="b") as seen:
        while outcome.cycles < cycles and not seen.failures:
            await reached(seen, 16)
            await timed(outcome, app.stop)
    outcome.seen.add(seen)
    return outcome


async def idle_cycles(app: App, cycles: int, mode: Literal["stop", "doze"] = "stop") -> Outcome:
    """Bursts of visitors with gaps; each stop is an idle one, asked for in a gap or in the middle of a burst."""
    outcome, burst = Outcome(), 0

    async def sleep() -> bool:
        return await app.sleep(mode)

    while outcome.cycles < cycles and not outcome.seen.failures:
        burst += 1
        async with visits(app, visitors=3, gap=0.005, prefix=f"{mode}{burst}", talkers=burst % 3) as seen:
            await reached(seen, BURST // 2)
            if burst % 2:  # also in the middle: it comes through between two requests, or is cancelled
                await timed(outcome, sleep)
            await reached(seen, BURST // 2)
        outcome.seen.add(seen)
        # What the nodes counted is known a heartbeat later: until then an idle stop is refused.
        async with asyncio.timeout(60):
            while not await timed(outcome, sleep):
                await asyncio.sleep(GAP)
        await app.until("dozing" if mode == "doze" else "asleep")
    return outcome


async def run(site: Site, directory: Path, kind: Kind, cycles: int) -> Outcome:
    """Run one kind, stop all servers, and look at what is left."""
    at_once = 1 if kind == "explicit" else SIDE_BY_SIDE
    outcomes = await asyncio.gather(
        *(_run_one(site, directory, kind, f"cycles-{number}", -(-cycles // at_once)) for number in range(at_once))
    )
    whole = merged(outcomes)
    whole.left = await orphans(site.lair)
    return whole


def merged(outcomes: Sequence[Outcome]) -> Outcome:
    """Return the sum of several outcomes."""
    whole = Outcome()
    for one in outcomes:
        whole.cycles += one.cycles
        whole.refused += one.refused
        whole.seen.add(one.seen)
        for mine, theirs in (
            (whole.drains, one.drains),
            (whole.doubled, one.doubled),
            (whole.lost, one.lost),
            (whole.odd, one.odd),
        ):
            mine.extend(theirs)  # type: ignore[arg-type]
    return whole


async def _run_one(site: Site, directory: Path, kind: Kind, owner: str, cycles: int) -> Outcome:
    env = {"KEEP_ALIVE": str(KEEP_ALIVE)} if kind == "beat" else {}
    app = await site.identity(owner, kind, directory, env=env)
    assert (await app.fetch("/")).status == 200
    match kind:
        case "explicit":
            outcome = await explicit_cycles(app, cycles)
        case "beat":
            outcome = await beat_cycles(app, cycles)
        case "idle":
            outcome = await idle_cycles(app, cycles)
        case "doze":
            outcome = await idle_cycles(app, cycles, "doze")
    books = Books.of(app, outcome.seen)
    outcome.doubled, outcome.lost = books.doubled, books.lost
    # One start for each stop, and the one at the beginning; the last stop may not have been followed by a visit. A
    # doze goes on with the same instance.
    starts = {1} if kind == "doze" else {outcome.cycles, outcome.cycles + 1}
    if len(app.starts()) not in starts:
        outcome.odd.append(f"{app.name} was started {len(app.starts())} times in {outcome.cycles} cycles")
    if app.twice():
        outcome.odd.append(f"{app.name} ran {len(app.twice())} times beside itself")
    if strangers := set(outcome.seen.names) - {app.name}:
        outcome.odd.append(f"visitors of {app.name} were answered by {strangers}")
    await app.stop()
    await app.until("asleep")
    return outcome
