"""Changes the routes of a proxy that runs, and waits until its visitors meet the new targets."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from bench.asking import Call, Caller, Kept, told, until_served
from bench.peers.base import ByApi, ByFile, Routes, Running, replace
from bench.stage import Stage
from bench.usage import cpu_seconds


@dataclass(frozen=True, slots=True)
class Rate:
    """How many changes were made, and in how many seconds: until the last one was served."""

    changes: int
    seconds: float
    busy: float
    """Processor time of all of the proxy's processes meanwhile, in seconds."""
    wrong: int
    """Hosts that did not lead to their last target afterwards."""

    @property
    def rate(self) -> float:
        """Return changes a second."""
        return self.changes / self.seconds

    @property
    def cpu(self) -> float:
        """Return the processor time of one change, in microseconds."""
        return self.busy / self.changes * 1e6


class Changer(Protocol):
    """A running proxy whose routes are changed."""

    name: str
    running: Running
    pids: list[int]
    """All processes that a change takes."""
    table: dict[str, int]
    """The routes as they were last asked for."""

    def once(self, host: str, target: int) -> float:
        """Change one route; return the seconds from the beginning until the new target serves a visitor."""
        ...

    async def hand_over(self, host: str, target: int) -> None:
        """Change one route, without a look at who serves it."""
        ...

    async def single(self, hosts: Sequence[str], targets: Sequence[int], seconds: float) -> Rate:
        """Change one route after the other for some seconds, each to the next target."""
        ...

    async def batches(self, hosts: Sequence[str], targets: Sequence[int], seconds: float) -> Rate | None:
        """Change all of these routes at once, again and again; None where the proxy can't."""
        ...

    def rest(self) -> None:
        """Close connections until they are needed again: an API may close what nobody uses for some seconds."""
        ...


def following(target: int, targets: Sequence[int]) -> int:
    """Return the target after this one."""
    return targets[(targets.index(target) + 1) % len(targets)]


async def wrong(running: Running, table: Routes, hosts: Sequence[str]) -> int:
    """Return how many of these hosts don't lead to their target."""
    found = 0
    async with Kept(running.port) as visitor:
        for host in hosts:
            status, body = await visitor.ask(Call("GET", "/port", headers={"User-Agent": "bench"}).encoded(host))
            found += status != 200 or body != told(table[host])
    return found


ATTEMPTS = 10
"""How often a call is sent where the connection ends instead: Caddy's API closes all of them with some changes."""


class ApiChanger:
    """Changes over an API: one call on a kept connection for one change."""

    def __init__(self, stage: Stage, peer: ByApi, routes: Routes) -> None:
        self.name = peer.name
        self.table = dict(routes)
        self.running = peer.start(stage, routes)
        self.pids = self.running.pids()
        self._peer = peer
        self._host = f"127.0.0.1:{peer.api_port}"
        self._caller = Caller(peer.api_port)
        self._kept = Kept(peer.api_port)

    def once(self, host: str, target: int) -> float:
        """See `Changer.once`; the call's own answer is read after the visitor's."""
        self.table[host] = target
        call = self._peer.change(host, target)
        began = time.perf_counter()
        self._caller.send(call)
        served = until_served(self.running.port, host, target)
        self._caller.finish()
        return served - began

    async def hand_over(self, host: str, target: int) -> None:
        """See `Changer.hand_over`."""
        self.table[host] = target
        await self._call(self._kept, self._peer.change(host, target))

    async def single(self, hosts: Sequence[str], targets: Sequence[int], seconds: float) -> Rate:
        """See `Changer.single`: over as many connections at once as suit the API best."""
        before, began = cpu_seconds(self.pids), time.perf_counter()
        changes = self._changes(hosts, targets, began + seconds)
        last = [host for host in await self._spread(changes) if host]
        for host in last:
            until_served(self.running.port, host, self.table[host])
        passed, busy = time.perf_counter() - began, cpu_seconds(self.pids) - before
        return Rate(self._made, passed, busy, await wrong(self.running, self.table, hosts))

    def _changes(self, hosts: Sequence[str], targets: Sequence[int], until: float) -> Iterator[str]:
        self._made = 0
        while time.perf_counter() < until:
            host = hosts[self._made % len(hosts)]
            self.table[host] = following(self.table[host], targets)
            self._made += 1
            yield host

    async def _spread(self, changes: Iterator[str]) -> list[str]:
        """Make changes over several connections; return the last one of each."""

        async def work() -> str:
            host = ""
            async with Kept(self._peer.api_port) as connection:
                for host in changes:
                    await self._call(connection, self._peer.change(host, self.table[host]))
            return host

        return await asyncio.gather(*(work() for _ in range(self._peer.api_connections)))

    async def batches(self, hosts: Sequence[str], targets: Sequence[int], seconds: float) -> Rate | None:
        """See `Changer.batches`."""
        made, passed, before = 0, 0.0, cpu_seconds(self.pids)
        while passed < seconds:
            self.table.update({host: following(self.table[host], targets) for host in hosts})
            call = self._peer.changes(self.table)
            if call is None:
                return None
            began = time.perf_counter()
            await self._call(self._kept, call)
            until_served(self.running.port, hosts[-1], self.table[hosts[-1]])
            passed += time.perf_counter() - began
            made += call.changes
        busy = cpu_seconds(self.pids) - before
        return Rate(made, passed, busy, await wrong(self.running, self.table, hosts))

    async def _call(self, connection: Kept, call: Call) -> None:
        for attempt in range(ATTEMPTS):
            try:
                status, body = await connection.ask(call.encoded(self._host))
                break
            except ConnectionError as error:
                if attempt == ATTEMPTS - 1:
                    raise RuntimeError(f"{self.name}: {call.method} {call.path}: {error}") from error
        if status >= 300:
            raise RuntimeError(f"{self.name} answered {status}: {body[:300]!r}")

    def rest(self) -> None:
        """See `Changer.rest`."""
        self._caller.close()
        self._kept.drop()


class FileChanger:
    """Changes by a new file of all routes; the time that it takes to make the file is nobody's."""

    def __init__(self, stage: Stage, peer: ByFile, routes: Routes) -> None:
        self.name = peer.name
        self.table = dict(routes)
        self.running = peer.start(stage, routes)
        self.pids = self.running.pids()
        self._peer = peer

    def once(self, host: str, target: int) -> float:
        """See `Changer.once`."""
        return self._replace({host: target})

    def _replace(self, changes: Routes) -> float:
        self.table.update(changes)
        content = self._peer.content(self.table)
        host, target = list(changes.items())[-1]
        began = time.perf_counter()
        replace(self._peer.file, content)
        return until_served(self.running.port, host, target) - began

    async def hand_over(self, host: str, target: int) -> None:
        """See `Changer.hand_over`."""
        self.table[host] = target
        replace(self._peer.file, self._peer.content(self.table))

    async def single(self, hosts: Sequence[str], targets: Sequence[int], seconds: float) -> Rate:
        """See `Changer.single`: each once the one before is served, since a later file would hide an earlier one."""
        made, passed, before = 0, 0.0, cpu_seconds(self.pids)
        while passed < seconds:
            host = hosts[made % len(hosts)]
            passed += self.once(host, following(self.table[host], targets))
            made += 1
        busy = cpu_seconds(self.pids) - before
        return Rate(made, passed, busy, await wrong(self.running, self.table, hosts))

    async def batches(self, hosts: Sequence[str], targets: Sequence[int], seconds: float) -> Rate | None:
        """See `Changer.batches`."""
        made, passed, before = 0, 0.0, cpu_seconds(self.pids)
        while passed < seconds:
            passed += self._replace({host: following(self.table[host], targets) for host in hosts})
            made += len(hosts)
        busy = cpu_seconds(self.pids) - before
        return Rate(made, passed, busy, await wrong(self.running, self.table, hosts))

    def rest(self) -> None:
        """See `Changer.rest`."""
