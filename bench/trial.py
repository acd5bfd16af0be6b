"""Proxies side by side whose routes are changed: one by one, under load, as fast as they can, before visitors' eyes.

Every proxy has the same table; the load, the visitors and the changes come from the other processors. A change begins
with the API's call, or with the move of a new file, and ends with the first answer of the new target to a visitor on a
new connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from bench import wrk
from bench.changing import ApiChanger, Changer, FileChanger, Rate, following
from bench.peers.caddy import Caddy
from bench.peers.chp import ConfigurableHttpProxy
from bench.peers.envoy import Envoy
from bench.peers.lair import Lair
from bench.peers.nginx import upstream
from bench.peers.on_etcd import TraefikOnEtcd
from bench.peers.traefik import Traefik
from bench.stage import LOAD_CPUS, Stage, until_accepts
from bench.usage import cpu_seconds
from bench.visitors import Met, hold, visit

ROUTES = 1000
STEADY = 100
"""Hosts at the table's beginning that the load asks for, and that are never changed."""

CONNECTIONS = 8
"""Of the load: enough to keep a processor busy."""

SOCKETS, MOVING_SOCKETS = "sockets.example.com", "moving-sockets.example.com"
"""Hosts that lead to WebSockets; the route of the second is changed while they are open."""

HELD, MOVING_HELD = 16, 4
"""WebSockets of the two."""

VISITORS = 4
"""Connections on which a host is asked for whose route is changed all the time."""

PAUSE = 0.02
"""Seconds between two changes while something else is measured."""

AnyPeer = Lair | ConfigurableHttpProxy | Caddy | Envoy | Traefik | TraefikOnEtcd


@dataclass(frozen=True, slots=True)
class Extent:
    """How much is measured."""

    rounds: int
    """Changes of each proxy, one by one."""
    turns: int
    """Turns of each proxy under load, and of its changes a second."""
    seconds: float
    """Of a turn."""


LONGEST_REST, LOOK, AT_REST = 15.0, 0.02, 0.2
"""Seconds in which all proxies shall come to rest, seconds of a look, and the part of a processor that is rest."""

SLOW = 0.5
"""Seconds that a change may take, in its first round; a slower proxy has one in each `RARELY` rounds only."""

RARELY = 10


@dataclass
class Seen:
    """What one proxy did."""

    idle: list[float] = field(default_factory=list)
    """Milliseconds of each change."""
    loaded: list[float] = field(default_factory=list)
    load: list[wrk.Load] = field(default_factory=list)
    """What asked for other hosts meanwhile."""
    single: list[Rate] = field(default_factory=list)
    batches: list[Rate] = field(default_factory=list)
    met: Met = field(default_factory=Met)
    beside: list[wrk.Load] = field(default_factory=list)
    """What asked for other hosts while visitors were there."""
    changes: int = 0
    """While visitors were there."""


@dataclass
class Trial:
    """All proxies of a run, each with the same table."""

    changers: list[Changer]
    targets: list[int]
    """Of which a route has one or the other."""
    echoes: list[int]
    """Those for WebSockets."""
    moving: list[str]
    """Hosts whose routes are changed."""
    steady: list[str]
    seen: dict[str, Seen]

    def rest(self) -> None:
        """End a turn: close the connections to the APIs, and settle."""
        for changer in self.changers:
            changer.rest()
        self.settle()

    def settle(self) -> None:
        """Wait until no proxy works on after its turn, but not for ever: the next one would pay for it."""
        pids = {pid for changer in self.changers for pid in changer.pids}  # some share a store
        deadline = time.perf_counter() + LONGEST_REST
        while time.perf_counter() < deadline:
            before = cpu_seconds(pids)
            time.sleep(LOOK)
            if cpu_seconds(pids) - before < LOOK * AT_REST:
                return

    def move(self, changer: Changer, host: str) -> float:
        """Change a host's route to the next target; return the milliseconds until it is served."""
        return changer.once(host, following(changer.table[host], self.targets)) * 1000


def hosts(number: int, targets: Sequence[int]) -> dict[str, int]:
    """Return so many routes to these ports, in turn."""
    return {f"project-{at:05d}--owner-{at % 500:03d}.example.com": targets[at % len(targets)] for at in range(number)}


def start(place: Stage, peers: Sequence[AnyPeer]) -> Trial:
    """Start everything."""
    targets, echoes = upstream(place, 2), [place.free_port(), place.free_port()]
    command = [sys.executable, "-m", "bench.echo", *map(str, echoes)]
    echo = place.spawn(command, cpus=LOAD_CPUS, env={"PYTHONPATH": str(Path(__file__).parents[1])})
    until_accepts(echoes[-1], echo)
    public = hosts(ROUTES - 3, targets)
    # Envoy is told of the targets at its start only: of each there must be a route.
    routes = {**public, SOCKETS: echoes[0], MOVING_SOCKETS: echoes[0], "spare.example.com": echoes[1]}
    changers = list[Changer]()
    for peer in peers:
        sys.stderr.write(f"bench: starting {peer.name} with {len(routes):,} routes\n")
        if isinstance(peer, Envoy | Traefik):
            changers.append(FileChanger(place, peer, routes))
        else:
            changers.append(ApiChanger(place, peer, routes))
        if isinstance(peer, Lair):
            changers[-1].pids = peer.changing()
    names = list(public)
    seen = {changer.name: Seen() for changer in changers}
    return Trial(changers, targets, echoes, names[STEADY:], names[:STEADY], seen)


def idle(trial: Trial, rounds: int) -> None:
    """Change one route after the other, of each proxy in turn."""
    for number, host in enumerate(itertools.islice(itertools.cycle(trial.moving), rounds + 1)):
        for changer in trial.changers:
            known = trial.seen[changer.name].idle
            if number % RARELY == 0 or not known or known[0] < SLOW * 1000:
                known.append(trial.move(changer, host))
                trial.settle()
    trial.rest()
    for seen in trial.seen.values():
        del seen.idle[0]  # it opened connections and filled caches


def loaded(place: Stage, trial: Trial, turns: int, seconds: float) -> None:
    """Change routes while others are asked for as fast as they are answered."""
    folder = place.folder("load")
    for _ in range(turns):
        for changer in trial.changers:
            seen = trial.seen[changer.name]
            moving = itertools.cycle(trial.moving)
            with ThreadPoolExecutor(1) as thread:
                question = wrk.Question(trial.steady)
                asked = thread.submit(wrk.run, folder, changer.running.port, question, seconds, CONNECTIONS)
                time.sleep(0.3)  # until it is at work
                while not asked.done():
                    seen.loaded.append(trial.move(changer, next(moving)))
                    time.sleep(PAUSE)
                seen.load.append(asked.result())
            trial.rest()


async def rates(trial: Trial, turns: int, seconds: float) -> None:
    """Change as many routes as each proxy takes, for some seconds in turn."""
    for _ in range(turns):
        for changer in trial.changers:
            seen = trial.seen[changer.name]
            seen.single.append(await changer.single(trial.moving, trial.targets, seconds))
            batches = await changer.batches(trial.moving, trial.targets, seconds)
            if batches is not None:
                seen.batches.append(batches)
            trial.rest()


async def visits(place: Stage, trial: Trial, turns: int, seconds: float) -> None:
    """Change routes while visitors are there whose connections stay: WebSockets, requests, and the load."""
    folder = place.folder("load")
    for _ in range(turns):
        for changer in trial.changers:
            await _visited(folder, trial, changer, seconds)
            trial.rest()


async def _visited(folder: Path, trial: Trial, changer: Changer, seconds: float) -> None:
    seen, port, over = trial.seen[changer.name], changer.running.port, asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        held = (SOCKETS,) * HELD + (MOVING_SOCKETS,) * MOVING_HELD
        for host in held:
            tasks.create_task(hold(port, host, seen.met, over))
        before = seen.met.sockets
        while seen.met.sockets < before + len(held):
            await asyncio.sleep(0.01)
        for _ in range(VISITORS):
            tasks.create_task(visit(port, trial.moving[0], seen.met, over))
        tasks.create_task(_keep_changing(trial, changer, over))
        question = wrk.Question(trial.steady)
        seen.beside.append(await asyncio.to_thread(wrk.run, folder, port, question, seconds, CONNECTIONS))
        over.set()


async def _keep_changing(trial: Trial, changer: Changer, over: asyncio.Event) -> None:
    """Change what visitors hold and ask for, and what nobody does."""
    others = itertools.cycle(trial.moving[1:])
    for host in itertools.cycle((trial.moving[0], MOVING_SOCKETS, "")):
        if over.is_set():
            return
        where = host or next(others)
        targets = trial.echoes if where == MOVING_SOCKETS else trial.targets
        await changer.hand_over(where, following(changer.table[where], targets))
        trial.seen[changer.name].changes += 1
        await asyncio.sleep(PAUSE)


@contextlib.contextmanager
def beside_the_proxy() -> Iterator[None]:
    """Leave the proxy's processor to the proxy."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, LOAD_CPUS)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def measure(place: Stage, trial: Trial, extent: Extent) -> None:
    """Measure all of it."""
    idle(trial, extent.rounds)
    loaded(place, trial, extent.turns, extent.seconds)
    asyncio.run(rates(trial, extent.turns, extent.seconds))
    asyncio.run(visits(place, trial, extent.turns, extent.seconds))
