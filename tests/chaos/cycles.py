"""One experiment: N times awake and asleep again under constant traffic; nothing fails, nothing doubles."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tests.system.site import App, Site
from tests.system.visitors import Traffic, traffic

Kind = Literal["idle", "explicit"]

BURST = 0.03
"""Seconds of traffic between two idle stops; then comes a gap, or nothing would ever be idle."""

GAP = 0.1
"""Seconds between two tries of an idle stop."""

IDLE_APPS = 5
"""Servers whose idle cycles run side by side: each waits for its gaps most of the time."""


@dataclass
class Outcome:
    """What came of it. `drains` are seconds from asking for a stop to being asleep."""

    cycles: int = 0
    refused: int = 0
    drains: list[float] = field(default_factory=list)
    seen: Traffic | None = None

    def line(self) -> str:
        """Return one line of a table."""
        assert self.seen is not None
        p50 = statistics.median(self.drains) * 1000
        p99 = sorted(self.drains)[min(len(self.drains) - 1, int(len(self.drains) * 0.99))] * 1000
        return (
            f"{self.cycles} cycles, {len(self.seen.sent)} requests, {len(self.seen.failures)} failed, "
            f"{self.refused} idle stops cancelled, stop p50 {p50:.0f} ms p99 {p99:.0f} ms"
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


async def explicit_cycles(app: App, cycles: int) -> Outcome:
    """Visitors never pause; each stop is explicit, and the next visitor wakes the next instance."""
    outcome = Outcome()
    async with traffic(app.site.address, app.host, visitors=4, gap=0.005, prefix="e") as seen:
        outcome.seen = seen
        while outcome.cycles < cycles and not seen.failures:
            reached = len(seen.answered)
            async with asyncio.timeout(30):
                while len(seen.answered) < reached + 8:
                    await asyncio.sleep(0.005)
            await timed(outcome, app.stop)
    return outcome


async def idle_cycles(app: App, cycles: int) -> Outcome:
    """Bursts of visitors with gaps; each stop is an idle one, asked for in a gap or just as the next burst begins."""
    outcome = Outcome()
    whole = Traffic("i")
    while outcome.cycles < cycles and not whole.failures:
        late = outcome.cycles % 2 == 1
        stop = asyncio.create_task(_later(outcome, app)) if late else None
        async with traffic(app.site.address, app.host, visitors=3, gap=0.005, prefix=f"i{len(whole.sent)}") as seen:
            await asyncio.sleep(BURST)
        if stop is not None:
            await stop
        # What the nodes counted is known a heartbeat later: until then an idle stop is refused.
        async with asyncio.timeout(20):
            while not await timed(outcome, app.sleep):
                await asyncio.sleep(GAP)
        await app.until("asleep")
        whole.sent += seen.sent
        whole.answered += seen.answered
        whole.failures += seen.failures
        whole.names += seen.names
    outcome.seen = whole
    return outcome


async def _later(outcome: Outcome, app: App) -> None:
    """Ask for an idle stop in the middle of a burst: it comes through between two requests, or is cancelled."""
    await asyncio.sleep(BURST / 2)
    await timed(outcome, app.sleep)


async def run(site: Site, directory: Path, kind: Kind, cycles: int) -> Outcome:
    """Run one kind, and check the books of every app."""
    if kind == "explicit":
        return await _run_one(site, directory, kind, "cycles", cycles)
    outcomes = await asyncio.gather(
        *(_run_one(site, directory, kind, f"cycles-{n}", -(-cycles // IDLE_APPS)) for n in range(IDLE_APPS))
    )
    return merged(outcomes)


def merged(outcomes: Sequence[Outcome]) -> Outcome:
    """Return the sum of several outcomes."""
    whole = Outcome(seen=Traffic("all"))
    assert whole.seen is not None
    for one in outcomes:
        assert one.seen is not None
        whole.cycles += one.cycles
        whole.refused += one.refused
        whole.drains += one.drains
        whole.seen.sent += one.seen.sent
        whole.seen.answered += one.seen.answered
        whole.seen.failures += one.seen.failures
    return whole


async def _run_one(site: Site, directory: Path, kind: Kind, owner: str, cycles: int) -> Outcome:
    app = await site.identity(owner, kind, directory)
    assert (await app.fetch("/")).status == 200
    outcome = await (idle_cycles if kind == "idle" else explicit_cycles)(app, cycles)
    assert outcome.seen is not None
    app.check_books(outcome.seen)
    # One start for each stop, and the one at the beginning; the last stop may not have been followed by a visit.
    assert len(app.starts()) in {outcome.cycles, outcome.cycles + 1}
    return outcome
