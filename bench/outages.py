"""Kills what a proxy gets its routes from, while visitors are there, and sees when changes are served again."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import wrk
from bench.changing import Changer
from bench.etcd import Etcd
from bench.peers.lair import Lair
from bench.report import Table
from bench.stage import Stage
from bench.trial import CONNECTIONS, HELD, SOCKETS, VISITORS, Trial
from bench.visitors import Met, hold, visit

BEFORE = 1.0
"""Seconds that visitors are there before something is killed."""

HEAD = (
    "proxy",
    "killed",
    "seconds",
    "requests of the load",
    "failed",
    "requests of visitors",
    "failed",
    "WebSockets",
    "dropped",
    "a change is served again, s",
)


@dataclass
class Outage:
    """What visitors met while something was away."""

    proxy: str
    killed: str
    seconds: float
    load: wrk.Load
    met: Met
    again: float | None = None
    """Seconds from when all that was killed was started again, until a change was served; None where it was not yet."""

    @property
    def failed(self) -> int:
        """Return how many requests failed, of the load and of visitors."""
        return self.load.failed + self.met.failed

    def row(self) -> list[str]:
        """Return it as a row of a table."""
        met = self.met
        counts = (self.load.requests, self.load.failed, met.requests, met.failed, met.sockets, met.dropped)
        again = "" if self.again is None else f"{self.again:.1f}"
        return [self.proxy, self.killed, f"{self.seconds:g}", *(f"{count:,}" for count in counts), again]


def table(outages: Sequence[Outage]) -> Table:
    """Return what visitors met."""
    found = Table("While the control plane or its store is away", HEAD, [outage.row() for outage in outages])
    found.notes += [
        f"Killed with SIGKILL, {BEFORE:g} s after the load, {VISITORS} visitors and {HELD} WebSockets began. Failed: "
        "the connection broke, or the answer was not 2xx; nothing is tried again.",
        "A change is served again: from the start of what was killed, etcd first.",
    ]
    return found


class Outages:
    """Outages of proxies whose routes are in one cluster.

    Args:
        place: where.
        trial: the proxies, with their routes.
        etcd: the cluster.
    """

    def __init__(self, place: Stage, trial: Trial, etcd: Etcd) -> None:
        self._place = place
        self._trial = trial
        self._etcd = etcd
        self._folder = place.folder("outages")
        self.found: list[Outage] = []

    def ours(self, changer: Changer, lair: Lair, short: float, long: float) -> None:
        """Kill the control plane, then etcd as well; once all of it is back, etcd alone.

        Args:
            changer: of ours.
            lair: it.
            short: seconds that it is seen without the control plane.
            long: seconds that it is seen without etcd: more than the lease, after which the control plane ends.
        """
        self._see(changer, "all Python processes", short, lambda: _kill_python(lair))
        self._see(changer, "and all members of etcd", short, self._etcd.kill)
        self._until_changed(changer, lambda: self._up(lair))
        self._see(changer, "all members of etcd", long, self._etcd.kill)
        self._until_changed(changer, lambda: self._up(lair))

    def peer(self, changer: Changer, seconds: float) -> None:
        """Kill etcd under a proxy that is its own control plane."""
        self._see(changer, "all members of etcd", seconds, self._etcd.kill)
        self._until_changed(changer, lambda: None)

    def _see(self, changer: Changer, killed: str, seconds: float, kill: Callable[[], None]) -> None:
        met, load = asyncio.run(_visited(self._folder, self._trial, changer, seconds, kill))
        self.found.append(Outage(changer.name, killed, seconds, load, met))

    def _until_changed(self, changer: Changer, start: Callable[[], None]) -> None:
        """Start etcd, and what else was killed; note when a change is served."""
        changer.rest()
        began = time.perf_counter()
        self._etcd.start()
        start()
        self._trial.move(changer, self._trial.moving[0])
        self.found[-1].again = time.perf_counter() - began
        changer.rest()

    def _up(self, lair: Lair) -> None:
        """Start a control plane that was killed, or that has ended by itself."""
        if lair.process is None or lair.process.poll() is not None:
            lair.up(self._place)
        lair.until_ready()


async def _visited(
    folder: Path, trial: Trial, changer: Changer, seconds: float, act: Callable[[], None]
) -> tuple[Met, wrk.Load]:
    met, port, over = Met(), changer.running.port, asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        for _ in range(HELD):
            tasks.create_task(hold(port, SOCKETS, met, over))
        while met.sockets < HELD:
            await asyncio.sleep(0.01)
        for _ in range(VISITORS):
            tasks.create_task(visit(port, trial.moving[0], met, over))
        question = wrk.Question(trial.steady)
        load = tasks.create_task(asyncio.to_thread(wrk.run, folder, port, question, seconds, CONNECTIONS))
        await asyncio.sleep(BEFORE)
        await asyncio.to_thread(act)
        await load
        over.set()
    return met, load.result()


def _kill_python(lair: Lair) -> None:
    """Kill all that runs of it but NGINX."""
    assert lair.process is not None
    for pid in set(lair.changing()) - set(lair.nginx()):
        os.kill(pid, signal.SIGKILL)
    lair.process.wait()
