"""One experiment: N times awake and asleep again under constant GET and POST traffic; nothing fails, nothing doubles.

Shared by the chaos test (few cycles) and by `bench/cycles.py` (many).
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tests.system.site import App, Site
from tests.system.visitors import Traffic, traffic

Kind = Literal["idle", "explicit"]

BURST = 0.03
"""Seconds of traffic between two idle stops; then comes a gap, or nothing would ever be idle."""

AWAKE = 0.08
"""Seconds of traffic on an awake server before it is stopped explicitly."""


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
        await timed(outcome, app.sleep)
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
    """Run one kind, and check the books."""
    app = await site.identity("cycles", kind, directory)
    assert (await app.fetch("/")).status == 200
    outcome = await (idle_cycles if kind == "idle" else explicit_cycles)(app, cycles)
    assert outcome.seen is not None
    app.check_books(outcome.seen)
    # One start for each stop, and the one at the beginning; the last stop may not have been followed by a visit.
    assert len(app.starts()) in {outcome.cycles, outcome.cycles + 1}
    return outcome
