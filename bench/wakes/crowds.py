"""Many visitors at once: on one sleeping server, and on as many sleeping servers.

All connections are opened before the first of them asks, so that the requests come in one burst.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.machine import percentile
from bench.report import spread
from bench.wakes.servers import GET, Kind, started
from tests.system.site import Site

from sourcelair.client.policy import SleepPolicy

CONNECTING = 200
"""Connections that are being opened at once: NGINX's own queue holds 511."""

LOOK = 0.005
"""Seconds between two tries to reach one of many servers that start: all of them look at once."""

LONGEST_CROWD = 300.0
"""Seconds that the last visitor of a crowd may wait."""


@dataclass
class Crowd:
    """What became of many visits that came at once."""

    taken: list[float] = field(default_factory=list)
    """Milliseconds from the burst to the end of each good answer."""
    errors: Counter[str] = field(default_factory=Counter)

    @property
    def failed(self) -> int:
        """Return how many had no good answer."""
        return self.errors.total()

    def at(self, part: float) -> float:
        """Return a percentile of the good ones, in milliseconds."""
        return percentile(self.taken, part) if self.taken else 0.0


def cells(turns: Sequence[Crowd]) -> list[str]:
    """Return the errors of all turns; p50, p99 and the last answer of each, in milliseconds: median, least and most."""
    figures = [spread((crowd.at(part) for crowd in turns), 0) for part in (0.5, 0.99, 1.0)]
    return [str(sum(crowd.failed for crowd in turns)), *figures]


def errors(turns: Sequence[Crowd]) -> list[str]:
    """Return a note on what went wrong, where something did."""
    found = sum((crowd.errors for crowd in turns), Counter[str]())
    return (
        ["Errors: " + "; ".join(f"{number} x {what}" for what, number in found.most_common(5)) + "."] if found else []
    )


async def burst(port: int, hosts: Sequence[str]) -> Crowd:
    """Send one GET to each of these hosts, all at once."""
    crowd, opening, go = Crowd(), asyncio.Semaphore(CONNECTING), asyncio.Event()
    connected, began = 0, 0.0

    async def one(host: str) -> None:
        nonlocal connected
        try:
            async with opening:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
            connected += 1
            await go.wait()
            writer.write(GET.sent(host))
            answer = await reader.read(-1)
            writer.close()
            GET.check(answer)
            crowd.taken.append((time.perf_counter() - began) * 1000)
        except (OSError, RuntimeError) as error:
            connected += not go.is_set()
            crowd.errors[(str(error) or type(error).__name__).splitlines()[0]] += 1

    async with asyncio.timeout(LONGEST_CROWD), asyncio.TaskGroup() as group:
        for host in hosts:
            group.create_task(one(host))
        while connected < len(hosts):
            await asyncio.sleep(0.01)
        began = time.perf_counter()
        go.set()
    return crowd


@dataclass
class Herds:
    """Herds on one server, turn by turn."""

    starts: list[int] = field(default_factory=list)
    """How often the server was started in each turn."""
    asleep: list[Crowd] = field(default_factory=list)
    awake: list[Crowd] = field(default_factory=list)
    """The same herd again, while it is awake."""


async def herds(site: Site, owner: str, kind: Kind, folder: Path, size: int, turns: int) -> Herds:
    """Send a herd to one sleeping server, and the same again while it is awake; `turns` times."""
    folder.mkdir()
    command = ["sh", "-c", 'echo started >> starts; exec "$@"', "sh", *kind.command]
    await site.put(owner, "herd", command, directory=folder, sleep=SleepPolicy(stop_grace=0))
    hosts, seen, before = [site.host(owner, "herd")] * size, Herds(), 0
    for _ in range(turns):
        seen.asleep.append(await burst(site.address[1], hosts))
        seen.awake.append(await burst(site.address[1], hosts))
        await site.servers.stop(owner, "herd")
        starts = len((folder / "starts").read_text().splitlines())
        seen.starts.append(starts - before)
        before = starts
    return seen


@dataclass
class Many:
    """Many servers that were woken at once, and the same many started by themselves, turn by turn."""

    visits: list[Crowd] = field(default_factory=list)
    own: list[Crowd] = field(default_factory=list)


async def many(
    site: Site, owners: Sequence[str], kind: Kind, folder: Path, ports: Sequence[int], at_once: int, turns: int
) -> Many:
    """Visit many sleeping servers at once, in turn with as many own starts.

    Args:
        site: the installation.
        owners: who have equal parts of them.
        kind: of the servers.
        folder: that they run in.
        ports: for the own starts; there are as many servers as ports.
        at_once: own starts at once.
        turns: how often.
    """
    names = [(owners[number % len(owners)], f"many{number}") for number in range(len(ports))]
    for owner, project in names:
        await site.put(owner, project, list(kind.command), directory=folder, sleep=SleepPolicy(stop_grace=0))
    hosts, seen = [site.host(owner, project) for owner, project in names], Many()
    for _ in range(turns):
        seen.own.append(await own_starts(kind, folder, ports, at_once))
        seen.visits.append(await burst(site.address[1], hosts))
        for owner, project in names:
            await site.servers.stop(owner, project)
    return seen


async def own_starts(kind: Kind, folder: Path, ports: Sequence[int], at_once: int) -> Crowd:
    """Start as many servers as there are ports by themselves, and return when each had answered, from the first on.

    Args:
        kind: of the servers.
        folder: that they run in.
        ports: one for each.
        at_once: how many of them may be starting; all go on running until the last has answered, as they do with us.
    """
    crowd, turn = Crowd(), asyncio.Semaphore(at_once)
    began = time.perf_counter()

    async def one(port: int, stack: contextlib.ExitStack) -> None:
        async with turn:
            process = stack.enter_context(started(kind.command, folder, port))
            while True:
                with contextlib.suppress(OSError):
                    reader, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.write(kind.question.sent("bench"))
                    answer = await reader.read(-1)
                    writer.close()
                    kind.question.check(answer)
                    crowd.taken.append((time.perf_counter() - began) * 1000)
                    return
                if process.poll() is not None:
                    crowd.errors[f"it ended with {process.returncode}"] += 1
                    return
                await asyncio.sleep(LOOK)

    with contextlib.ExitStack() as stack:
        async with asyncio.timeout(LONGEST_CROWD), asyncio.TaskGroup() as group:
            for port in ports:
                group.create_task(one(port, stack))
    return crowd
