"""Agents between a real API and an engine in memory, and the routes that they are given."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from tests.ceryx.conftest import make_settings
from tests.ceryx.engine import MemoryEngine

from sourcelair.ceryx.agent import Agent
from sourcelair.client.ceryx import CeryxClient, Route


def live(source: str, port: int = 8000, instance: str | None = None, host: str = "10.9.9.9") -> Route:
    return Route(source=source, target=f"http://{host}:{port}", instance=instance)


def asleep(source: str) -> Route:
    return Route(source=source, target=None, waker="http://127.0.0.1:7070/waker")


def make_agent(tmp_path: Path, url: str, engine: MemoryEngine, **options: object) -> Agent:
    client = CeryxClient(url, "service")
    agent = Agent(
        make_settings(tmp_path, node="n1"),
        client,
        engine,
        directory=tmp_path / "agent",
        waker="http://127.0.0.1:7070/waker",
        waker_token="secret",
        **options,
    )
    agent.client = client
    return agent


@asynccontextmanager
async def alive(agent: Agent) -> AsyncIterator[asyncio.Task[None]]:
    """Run an agent; leaving kills it where it stands."""
    task = asyncio.create_task(agent.run())
    try:
        yield task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await agent.client.close()


class Standstill:
    """Where an engine's hook stands still, until it may go on. Who is cancelled meanwhile was killed there."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.go = asyncio.Event()

    async def __call__(self, _: object) -> None:
        self.reached.set()
        await self.go.wait()


async def eventually(condition: Callable[[], bool], timeout: float = 10) -> None:
    async with asyncio.timeout(timeout):
        while not condition():
            await asyncio.sleep(0.002)
