"""Servers that doze, and what is to be seen of them."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

from tests.servers.world import Life

from sourcelair.client.servers import Server, SleepRequest, SleepResult, StartRequest

HOST = "blog--demo.localhost"
VISIT = StartRequest(cause="visit")


async def awake(life: Life, **changes: Any) -> str:
    """Have a server that is awake, and return its instance."""
    await life.create(**changes)
    server = await life.client.start("demo", "blog", VISIT, wait=5)
    while not (await life.client.report("demo", "blog")).starts:  # kept in the background: no effect of what follows
        await asyncio.sleep(0.001)
    return named(server)


def named(server: Server) -> str:
    assert server.instance is not None
    return server.instance.id


async def sleep(life: Life, instance: str, mode: Literal["stop", "doze"] = "doze") -> SleepResult:
    return await life.client.sleep("demo", "blog", SleepRequest(instance=instance, totals=[], mode=mode))


async def dozing(life: Life, **changes: Any) -> str:
    """Have a server that dozes, and return its instance."""
    instance = await awake(life, **changes)
    assert (await sleep(life, instance)).slept
    return instance


async def paused(life: Life) -> list[bool]:
    return [found.paused for found in await life.world.driver.find_all()]


async def target(life: Life) -> str | None:
    return (await life.world.ceryx.get_route(HOST)).target
