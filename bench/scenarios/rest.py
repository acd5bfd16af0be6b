"""What an installation costs while nobody visits: ten thousand servers asleep, and then a thousand of them awake."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from bench.peers.lair import Lair
from bench.report import Report, Table
from bench.stage import stage
from bench.usage import cpu_seconds, memory_bytes
from tests.system.tiny import built

SETTLE = 5.0
"""Seconds before a measurement, in which what was just created or started comes to rest."""

AT_ONCE = 8
"""Calls of the API at once."""

OWNERS = 100
"""Among whom the servers are divided evenly."""

SETTINGS = {
    "LAIR_IDLE_TIMEOUT": "86400",  # nothing falls asleep meanwhile
    "LAIR_PORT_RANGE": "10000-19999",
    "LAIR_MAX_STARTING_PER_OWNER": str(AT_ONCE),
}

CPU_PROMISE, MEMORY_PROMISE = 2.0, 200.0
"""Percent of one processor, and megabytes, that the control plane may take with ten thousand servers asleep."""

GENEROUS_CPU, GENEROUS_GROWTH = 10.0, 20.0
"""Percent of one processor, and kilobytes a server, that the regression check allows."""

HEAD = ("servers", "control plane: CPU, %", "memory, MB", "NGINX: CPU, %", "memory, MB")


@dataclass(frozen=True, slots=True)
class Cost:
    """What processes took: percent of one processor, and megabytes (PSS) at the end."""

    cpu: float
    memory: float


class Rest:
    """Ours alone: nobody else sleeps."""

    programs: Sequence[str] = ()

    def measure(self, *, short: bool, check: bool) -> Report:
        """Measure it, see `Scenario`."""
        steps = [10, 300] if short else [10, 1000] if check else [10, 1000, 10_000]
        awake = 0 if check else 30 if short else 1000
        middle, whole = (3.0, 10.0) if short else (5.0, 20.0) if check else (60.0, 300.0)
        asleep = Table("Servers asleep, never started", HEAD)
        some_awake = Table("Some of them awake", HEAD)
        report = Report("rest", "While nobody visits", "bin/bench rest", [asleep, some_awake])
        with stage() as place:
            site = Site(Lair(), built(place.directory))
            site.lair.start(place, {}, **SETTINGS)
            costs = []
            for number in steps:
                created = site.create(number)
                costs.append(site.rest(asleep, f"{number:,} asleep", whole if number == steps[-1] else middle))
            asleep.notes += [created, f"Over {whole:g} s; those before the last row over {middle:g} s."]
            grown = (costs[-1].memory - costs[0].memory) * 1000 / (steps[-1] - steps[0])
            asleep.notes.append(f"Each of them takes {grown:.1f} kB of the control plane.")
            report.promises = _checked(costs[-1], grown) if check else _promises(costs[-1], steps[-1])
            if awake:
                some_awake.notes.append(site.wake(awake))
                site.rest(some_awake, f"{steps[-1] - awake:,} asleep, {awake:,} awake", whole)
                still = sum(server["state"] == "awake" for server in site.lair.call("GET", "/api/servers/"))
                some_awake.notes.append(f"After that {still:,} were still awake.")
            else:
                report.tables.remove(some_awake)
        return report


def _promises(cost: Cost, number: int) -> list[tuple[str, str, bool]]:
    whole = f"{number:,} servers asleep: the control plane takes no more than"
    return [
        (f"{whole} {CPU_PROMISE:g}% of one processor", f"{cost.cpu:.2f}%", cost.cpu <= CPU_PROMISE),
        (f"{whole} {MEMORY_PROMISE:g} MB", f"{cost.memory:.0f} MB", cost.memory <= MEMORY_PROMISE),
    ]


def _checked(cost: Cost, grown: float) -> list[tuple[str, str, bool]]:
    return [
        (f"no more than {GENEROUS_CPU:g}% of one processor", f"{cost.cpu:.2f}%", cost.cpu <= GENEROUS_CPU),
        (f"no more than {GENEROUS_GROWTH:g} kB a server", f"{grown:.1f} kB", grown <= GENEROUS_GROWTH),
    ]


class Site:
    """One installation with servers that nobody visits.

    Args:
        lair: it.
        program: that all servers run; it is given its port.
    """

    def __init__(self, lair: Lair, program: Path) -> None:
        self.lair = lair
        self._command = [str(program), "{port}"]
        self._directory = program.parent
        self._created = 0

    def create(self, number: int) -> str:
        """Create servers until there are so many, and return how long that took, in words."""
        new = range(self._created, number)
        self._created = number
        body = {"spec": {"command": self._command, "directory": str(self._directory)}}
        return _timed("Created", new, lambda at: self.lair.call("PUT", f"/api/servers/{_name(at)}/", body))

    def wake(self, number: int) -> str:
        """Start the first so many, and return how long that took, in words."""
        path = "/api/servers/{}/start?wait=60"
        return _timed("Started", range(number), lambda at: self.lair.call("POST", path.format(_name(at))))

    def rest(self, table: Table, name: str, seconds: float) -> Cost:
        """Let it rest for some seconds, note in a row what that took, and return what the control plane took."""
        time.sleep(SETTLE)
        nginx, control_plane = self.lair.nginx(), [self.lair.control_plane]
        before, began = (cpu_seconds(control_plane), cpu_seconds(nginx)), time.monotonic()
        time.sleep(seconds)
        taken = time.monotonic() - began
        costs = [
            Cost((cpu_seconds(pids) - used) * 100 / taken, memory_bytes(pids) / 1e6)
            for pids, used in zip((control_plane, nginx), before, strict=True)
        ]
        figures = [figure for cost in costs for figure in (f"{cost.cpu:.2f}", f"{cost.memory:.0f}")]
        table.rows.append([name, *figures])
        return costs[0]


def _name(at: int) -> str:
    return f"owner{at % OWNERS}/project{at // OWNERS}"


def _timed(done: str, numbers: Iterable[int], work: Callable[[int], object]) -> str:
    """Do it for each number, some at once, and return how long that took, in words."""
    each = list(numbers)
    began = time.monotonic()
    with ThreadPoolExecutor(AT_ONCE) as threads:
        list(threads.map(work, each))
    taken = time.monotonic() - began
    return f"{done} by the API, {AT_ONCE} at once: {len(each):,} in {taken:.1f} s, {len(each) / taken:.0f} a second."
