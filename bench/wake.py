"""What waking adds to a server's own start, and how long a thaw takes: `.venv/bin/python -m bench.wake`.

The server's own start is measured in the same run, in turn with the wakes: the same command is spawned here with a
free port, and asked in a tight loop until it answers. Overhead is the difference between the two: a wake's time, from
the visitor's connect to the last byte of the answer, less the own start of the same round; its percentiles are over
all rounds. The difference of the percentiles stands beside it, since both parts of a pair vary by themselves.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import datetime
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from bench.machine import described, load, percentile, syncs
from tests.ports import BLOCK
from tests.system.lair import running_lair
from tests.system.site import Site, site_of
from tests.system.tiny import built

from sourcelair.client.policy import SleepPolicy
from sourcelair.client.servers import SleepRequest, Timing

RESULTS = Path(__file__).parent / "results"
OWNER = "bench"

TRY_AGAIN = 0.0002
"""Seconds between two tries to reach a server that is just starting: without a pause they take its processor away."""

STEPS = ("gate", "queued", "stored", "spawned", "listening", "ready", "published")

SERVERS: dict[str, list[str]] = {
    "tiny (C, static)": ["{tiny}", "{port}"],
    "python -m http.server": [sys.executable, "-S", "-m", "http.server", "-b", "127.0.0.1", "{port}"],
}
"""Commands, by what they are called in the table."""


@dataclass
class Rounds:
    """Milliseconds of each round."""

    own: list[float] = field(default_factory=list)
    wake: list[float] = field(default_factory=list)
    timings: list[Timing] = field(default_factory=list)

    @property
    def overhead(self) -> list[float]:
        """Return what a wake took longer than the own start of the same round."""
        return [wake - own for wake, own in zip(self.wake, self.own, strict=True)]


def ask(port: int, host: str) -> bytes:
    """Connect, send one GET, and return all that comes.

    Raises:
        OSError: nobody listens there yet, or it broke off.
    """
    with socket.create_connection(("127.0.0.1", port), 60) as visitor:
        visitor.sendall(f"GET / HTTP/1.1\r\nHost: {host}\r\nUser-Agent: bench\r\nConnection: close\r\n\r\n".encode())
        answer = b""
        while part := visitor.recv(65536):
            answer += part
    if not answer.startswith(b"HTTP/1."):
        raise ConnectionError("no answer")
    return answer


def own_start(command: list[str], directory: Path, port: int) -> float:
    """Return the milliseconds from the spawn of a server to its first answer, and end it."""
    began = time.perf_counter()
    process = subprocess.Popen(
        [part.replace("{port}", str(port)) for part in command],
        cwd=directory,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while True:
            with contextlib.suppress(OSError):
                ask(port, "bench")
                return (time.perf_counter() - began) * 1000
            if process.poll() is not None:
                raise RuntimeError(f"{command[0]} ended with {process.returncode}")
            time.sleep(TRY_AGAIN)
    finally:
        process.kill()
        process.wait()


def visit(site: Site, project: str) -> float:
    """Return the milliseconds of one visit."""
    began = time.perf_counter()
    answer = ask(site.address[1], site.host(OWNER, project))
    if not answer.startswith((b"HTTP/1.1 200", b"HTTP/1.0 200")):
        raise RuntimeError(answer[:300].decode(errors="replace"))
    return (time.perf_counter() - began) * 1000


async def wakes(site: Site, project: str, command: list[str], directory: Path, rounds: int) -> Rounds:
    """Measure the server's own start and a wake in turn."""
    # Ports of this installation's own block, above those that it gives to its servers.
    ports = range(site.lair.port + BLOCK // 2, site.lair.port + BLOCK)
    await site.put(OWNER, project, command, directory=directory, sleep=SleepPolicy(stop_grace=0))
    seen = Rounds()
    for number in range(rounds + 1):
        own = await asyncio.to_thread(own_start, command, directory, ports[number % len(ports)])
        wake = await asyncio.to_thread(visit, site, project)
        timing = (await site.until(OWNER, project, "awake")).timing
        assert timing is not None
        await site.servers.stop(OWNER, project)
        if number:  # the first one fills caches
            seen.own.append(own)
            seen.wake.append(wake)
            seen.timings.append(timing)
    return seen


async def thaws(site: Site, command: list[str], directory: Path, rounds: int) -> list[float]:
    """Return the milliseconds of visits to a server that dozes."""
    await site.put(OWNER, "dozes", command, directory=directory)
    await asyncio.to_thread(visit, site, "dozes")
    taken = []
    for _ in range(rounds):
        await _doze(site, "dozes")
        taken.append(await asyncio.to_thread(visit, site, "dozes"))
    return taken


async def _doze(site: Site, project: str) -> None:
    """Put a server to doze; what the nodes counted is known a heartbeat later, and until then it is refused."""

    async def once() -> bool:
        instance = (await site.until(OWNER, project, "awake")).instance
        assert instance is not None
        (activity,) = await site.ceryx.activity([instance.id])
        request = SleepRequest(instance=instance.id, totals=activity.totals, mode="doze")
        return (await site.servers.sleep(OWNER, project, request)).slept

    await _until(once)
    await site.until(OWNER, project, "dozing")


async def _until(done: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(30):
        while not await done():
            await asyncio.sleep(0.02)


def row(name: str, values: list[float]) -> str:
    """Return a row of a table: p50, p90, p99 and the most, in milliseconds."""
    cells = [statistics.median(values), percentile(values, 0.9), percentile(values, 0.99), max(values)]
    return f"| {name} | " + " | ".join(f"{cell:.1f}" for cell in cells) + " |"


HEAD = ["| milliseconds | p50 | p90 | p99 | most |", "|---|---|---|---|---|"]


def wake_table(name: str, seen: Rounds) -> list[str]:
    """Return the lines on the wakes of one server."""
    difference = [percentile(seen.wake, part) - percentile(seen.own, part) for part in (0.5, 0.9, 0.99)]
    steps = []
    before = 0.0
    for step in STEPS:
        at = [value for timing in seen.timings if (value := getattr(timing, step)) is not None]
        if not at:
            continue
        middle = statistics.median(at)
        # The gate's is how long before the question the visitor came; all others are counted from that question on.
        steps.append(f"{step} {middle if step == 'gate' else middle - before:.1f}")
        before = before if step == "gate" else middle
    return [
        f"## {name}, {len(seen.wake)} rounds",
        "",
        *HEAD,
        row("its own start, without us", seen.own),
        row("a visit that wakes it", seen.wake),
        row("**overhead**, pair by pair", seen.overhead),
        "| difference of the percentiles | " + " | ".join(f"{value:.1f}" for value in difference) + " | |",
        "",
        f"Where a wake's time goes (medians of each step, ms): {', '.join(steps)}.",
        "",
    ]


async def measure(rounds: int, *, doze: bool) -> list[str]:
    """Run everything, and return the lines of the report."""
    with tempfile.TemporaryDirectory(prefix="lair-bench-") as name:
        directory = Path(name)
        (directory / "index.html").write_text("hello")
        tiny = str(built(directory))
        commands = {label: [part.replace("{tiny}", tiny) for part in command] for label, command in SERVERS.items()}
        lines, loads = [], [load()]
        with running_lair(directory / "lair") as lair:
            async with site_of(lair) as site:
                disk = syncs(lair.data_dir)
                for number, (label, command) in enumerate(commands.items()):
                    seen = await wakes(site, f"server{number}", command, directory, rounds)
                    lines += wake_table(label, seen)
                    loads.append(load())
                if doze:
                    taken = await thaws(site, next(iter(commands.values())), directory, rounds)
                    lines += [f"## From dozing to the last byte, {rounds} rounds", "", *HEAD, row("a visit", taken), ""]
        facts = [
            f"fsync of this disk: p50 {statistics.median(disk):.2f} ms, p99 {percentile(disk, 0.99):.2f} ms.",
            f"Processes that wanted to run before and after, on average: {loads[0]:.1f}, {loads[-1]:.1f}.",
            "",
        ]
        return [*_introduction(rounds, doze=doze), *facts, *lines]


def _introduction(rounds: int, *, doze: bool) -> list[str]:
    flags = f"--rounds {rounds}{' --doze' if doze else ''}"
    return [
        "# What waking adds",
        "",
        f"Measured on {datetime.datetime.now(datetime.UTC):%Y-%m-%d} by `.venv/bin/python -m bench.wake {flags}`.",
        *(f"{line}." for line in described()),
    ]


def main() -> None:
    """Measure, print, and write the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.wake", description=__doc__)
    parser.add_argument("--rounds", type=int, default=200, help="of each kind (200)")
    parser.add_argument("--doze", action="store_true", help="thaws, too")
    parser.add_argument("--write", action="store_true", help="write results/wake.md; else the table is only printed")
    given = parser.parse_args()
    text = "\n".join(asyncio.run(measure(given.rounds, doze=given.doze)))
    sys.stdout.write(text)
    if given.write:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "wake.md").write_text(text)


if __name__ == "__main__":
    main()
