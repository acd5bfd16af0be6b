"""Very many routes in etcd: one phase at a time, each in a process of its own, so that its memory is its own.

`python -m bench.million PHASE URL NUMBER PORT` prints what it found as JSON; `bench/scenarios/etcd.py` runs the phases.
"""

from __future__ import annotations

import asyncio
import gc
import json
import resource
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import uvicorn
import uvloop
from fastapi import FastAPI
from tests.ceryx.engine import MemoryEngine

from sourcelair.auth import Identity
from sourcelair.ceryx.agent.engine import Engine
from sourcelair.ceryx.agent.journal import Journal
from sourcelair.ceryx.agent.resolve import Resolver, system_lookup
from sourcelair.ceryx.agent.table import NodeTable
from sourcelair.ceryx.agent.wakers import Wakers
from sourcelair.ceryx.http import create_router
from sourcelair.ceryx.models import encode_route, route_key
from sourcelair.ceryx.routes import Routes
from sourcelair.ceryx.service import CeryxService
from sourcelair.client.ceryx import CeryxClient, Route
from sourcelair.errors import install_error_handlers
from sourcelair.settings import Settings
from sourcelair.store.base import Compare, Put
from sourcelair.store.etcd import EtcdStore, parse_address

SILENCE = 600.0
"""Seconds that a list may stand still on a busy machine."""

GARBAGE = (10_000, 10, 10)
"""As `lair up` has Python look for cycles."""

LOOK = 0.005
"""Seconds between looks at the event loop."""

WRITERS = 8
CHANGED = 100
"""Routes that are another's when the table is compared once more."""


@dataclass
class Step:
    """What one step took.

    Seconds, the event loop's longest stall (milliseconds), the most of its thread's processor time between two looks
    (milliseconds), and the process's peak memory (megabytes).
    """

    name: str
    seconds: float = 0.0
    stall: float = 0.0
    busy: float = 0.0
    memory: float = 0.0
    note: str = ""


@asynccontextmanager
async def step(name: str, into: list[Step]) -> AsyncIterator[Step]:
    """Measure a block."""
    done, began = Step(name), time.perf_counter()

    async def look() -> None:
        last, used = time.perf_counter(), time.thread_time()
        while True:
            await asyncio.sleep(LOOK)
            now, busy = time.perf_counter(), time.thread_time()
            done.stall, last = max(done.stall, (now - last - LOOK) * 1000), now
            done.busy, used = max(done.busy, (busy - used) * 1000), busy

    looking = asyncio.create_task(look())
    try:
        yield done
    finally:
        done.seconds = time.perf_counter() - began
        await asyncio.sleep(2 * LOOK)
        looking.cancel()
        done.memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
        into.append(done)


def route(number: int, port: int = 8000) -> Route:
    """Return one of many routes."""
    return Route(
        source=f"project-{number:07}--owner-{number % 1000:04}.apps.example.com",
        target=f"http://10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}:{port}",
        instance=f"i{number:020x}",
        waker="http://127.0.0.1:7070/waker",
    )


def put(one: Route) -> Put:
    """Return the write of a route."""
    return Put(route_key(one.source), encode_route(one))


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[EtcdStore]:
    """Open Ceryx's store."""
    store = EtcdStore(parse_address(url), "ceryx")
    try:
        yield store
    finally:
        await store.close()


async def fill(url: str, number: int, _: int) -> list[Step]:
    """Write all routes, each under the condition that it is not there, as many in a transaction as it takes."""
    steps = list[Step]()
    async with opened(url) as store, step("all are written", steps):
        first = iter(range(0, number, store.most_operations))

        async def write() -> None:
            for at in first:
                puts = [put(route(one)) for one in range(at, min(at + store.most_operations, number))]
                await store.transact([Compare(one.key, 0) for one in puts], puts)

        await asyncio.gather(*(write() for _ in range(WRITERS)))
    return steps


async def load(url: str, number: int, _: int) -> list[Step]:
    """Start as the API does."""
    steps = list[Step]()
    async with opened(url) as store:
        routes = Routes(store)
        async with step("the API starts", steps):
            await routes.load()
        assert routes.count == number
    return steps


async def serve(url: str, _: int, port: int) -> list[Step]:
    """Answer as the API does, until SIGTERM."""
    steps, over = list[Step](), asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)
    with tempfile.TemporaryDirectory() as place:
        settings = Settings(data_dir=Path(place), served_wait=0.0)
        async with opened(url) as store, CeryxService(store, settings) as service:
            app = FastAPI()
            install_error_handlers(app)
            app.include_router(create_router(service, lambda _: Identity(kind="service")))
            server = uvicorn.Server(uvicorn.Config(app, port=port, log_config=None, lifespan="off"))
            async with step("the API meanwhile", steps):
                answering = asyncio.create_task(server._serve())  # without its own signal handlers
                await over.wait()
                server.should_exit = True
                await answering
    return steps


async def node(url: str, number: int, port: int) -> list[Step]:
    """Take a snapshot, apply it, compare it once more, meet NGINX again, and rewrite the file, as an agent does."""
    steps, engine = list[Step](), MemoryEngine(capacity=2 * number)
    engine.routes = lambda: engine.table  # type: ignore[method-assign] # there are no tombstones here
    engine.after_apply = answered
    with tempfile.TemporaryDirectory() as place:
        journal, wakers = Journal(Path(place) / "routes", "boot"), Wakers(Resolver(30, system_lookup))
        journal.load()
        table = NodeTable(Resolver(30, system_lookup), wakers)
        following = Engine(engine, 1, table, journal, wakers=wakers, introduce=("bench", None, None))
        table.on_change = following.wake.set
        following.known.set()
        async with opened(url) as store, CeryxClient(f"http://127.0.0.1:{port}", "token") as client:
            async with step("a snapshot", steps):
                await snapshot(client, table)
            async with step("it is applied, and written to the file", steps):
                running = asyncio.create_task(following.run())
                await until(lambda: following.connected)
            await store.transact([], [put(route(one, 9000)) for one in range(min(CHANGED, number))])
            engine.applied.clear()
            async with step("another snapshot, a hundred changed", steps) as done:
                await snapshot(client, table)
                await until(lambda: table.applied == table.revision)
            done.note = f"{len(engine.applied)} applied"
            engine.applied.clear()
            async with step("NGINX is another, and has them all", steps) as done:
                engine.generation = "another"
                await until(lambda: following.connected and following.generation == "another")
            done.note = f"{len(engine.applied)} applied"
            async with step("the file is written anew", steps) as done:
                assert await journal.rewrite(table.to_keep(), dict(table.names))
            done.note = f"{(Path(place) / 'routes').stat().st_size / 1e6:.0f} MB"
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running
        journal.close()
    return steps


async def answered(_: object) -> None:
    """Give the event loop its turn, as a real NGINX's answer does: this one's own table is no part of the agent."""
    await asyncio.sleep(0)


async def snapshot(client: CeryxClient, table: NodeTable) -> None:
    """Read all routes."""
    async with client.routes(SILENCE) as (routes, revision):
        await table.snapshot(routes, revision)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what nobody tells."""
    while not condition():
        await asyncio.sleep(LOOK)


PHASES: dict[str, Callable[[str, int, int], Coroutine[Any, Any, list[Step]]]] = {
    "fill": fill,
    "load": load,
    "serve": serve,
    "node": node,
}


def main() -> None:
    """Run one phase, with Python set up as `lair up` does."""
    name, url, number, port = sys.argv[1:]
    gc.set_threshold(*GARBAGE)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        found = runner.run(PHASES[name](url, int(number), int(port)))
    sys.stdout.write(json.dumps([asdict(one) for one in found]))


if __name__ == "__main__":
    main()
