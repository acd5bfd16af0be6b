"""Writes more and more routes, and sees what an installation takes for them: time, processor, memory and disk."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.etcd import Etcd
from bench.peers.lair import BATCH, Lair, table_bytes
from bench.report import Table
from bench.stage import Stage
from bench.usage import cpu_seconds, family, memory_bytes
from bench.visits import LONGEST, until_served

SETTLE = 3.0
"""Seconds before memory is looked at."""

HEAD = (
    "store",
    "routes",
    "of these written",
    "seconds until served",
    "control plane: CPU, s",
    "memory, MB",
    "etcd: CPU, s",
    "memory, MB",
    "on disk, MB",
)


@dataclass(frozen=True, slots=True)
class Cost:
    """What an installation has used so far: processor time in seconds, memory and disk in bytes."""

    cpu: float
    memory: int
    etcd_cpu: float
    etcd_memory: int
    disk: int


class Growing:
    """An installation whose routes grow.

    Args:
        place: where.
        lair: it; not started yet.
        etcd: where its routes are; None if they are in SQLite.
        targets: ports to which routes lead, in turn.
        most: routes there may be in the end.
    """

    def __init__(self, place: Stage, lair: Lair, etcd: Etcd | None, targets: Sequence[int], most: int) -> None:
        self._lair = lair
        self._etcd = etcd
        self._targets = targets
        self._written = 0
        lair.start(place, {}, LAIR_ROUTE_TABLE_BYTES=table_bytes(most))

    def grow(self, number: int, longest: float) -> list[str]:
        """Write routes until there are so many, or for so many seconds; return a row of the table."""
        before, first, began = self._cost(), self._written, time.monotonic()
        routes = self._routes(number)
        while time.monotonic() < began + longest and (some := list(itertools.islice(routes, BATCH))):
            self._lair.write(some)
            self._written += len(some)
        until_served(self._lair.port, [_host(self._written - 1)], began, longest + LONGEST)
        passed = time.monotonic() - began
        time.sleep(SETTLE)
        cost = self._cost()
        written = f"{self._written - first:,}"
        etcd = [f"{cost.etcd_cpu - before.etcd_cpu:.1f}", f"{cost.etcd_memory / 1e6:.0f}"] if self._etcd else ["", ""]
        return [
            self._lair.name,
            f"{self._written:,}",
            written if self._written == number else f"{written}, then {longest:g} s were over",
            f"{passed:.1f}",
            f"{cost.cpu - before.cpu:.1f}",
            f"{cost.memory / 1e6:.0f}",
            *etcd,
            f"{cost.disk / 1e6:.0f}",
        ]

    def _routes(self, number: int) -> Iterator[tuple[str, int]]:
        return ((_host(at), self._targets[at % len(self._targets)]) for at in range(self._written, number))

    def _cost(self) -> Cost:
        """Return what it has used; NGINX's part is none of the control plane's."""
        nginx = set(self._lair.nginx())
        pids = [pid for pid in family(self._lair.control_plane) if pid not in nginx]
        etcd = self._etcd
        on_disk = _disk(self._lair.data_dir) + (etcd.disk() if etcd else 0)
        return Cost(
            cpu_seconds(pids), memory_bytes(pids), etcd.cpu() if etcd else 0, etcd.memory() if etcd else 0, on_disk
        )


def table(longest: float) -> Table:
    """Return the table, without its rows yet."""
    found = Table("Growth: what more routes take", HEAD)
    found.notes += [
        f"Written by the batch API, {BATCH:,} a call, for {longest:g} s at most, until the last one of them is served. "
        f"Processor time of the step, {SETTLE:g} s after it too; memory (PSS) and disk of all routes so far.",
        "etcd: its three members together, whose data is on this one disk. On disk: what NGINX starts from, too.",
    ]
    return found


def _host(at: int) -> str:
    return f"project-{at:07d}--owner-{at % 1000:03d}.example.com"


def _disk(folder: Path) -> int:
    return sum(file.stat().st_blocks * 512 for file in folder.rglob("*") if file.is_file())
