"""One owner's servers, however many and however broken, keep nobody else's from starting."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.servers.world import Life, a_world

from sourcelair.client.servers import StartRequest
from sourcelair.servers import starts
from sourcelair.servers.drivers.mock import Script

pytestmark = pytest.mark.anyio

VISIT = StartRequest(cause="visit")


async def ask_for_many(life: Life, count: int) -> None:
    """Ask for servers that never listen, and wait until as many of them as may are starting."""
    for number in range(count):
        project = f"never{number}"
        await life.create("many", project, script=Script(listens=False), spec={"readiness": {"start_timeout": 3600}})
        await life.client.start("many", project, VISIT)
    for number in range(min(count, life.world.settings.max_starting)):
        await life.until("starting", "many", f"never{number}")


async def test_servers_that_never_listen_keep_no_other_from_starting(
    life: Life, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They have an hour to start, and their turns for some seconds only."""
    monkeypatch.setattr(starts, "LONGEST_TURN", 0.05)
    await ask_for_many(life, life.world.settings.max_starting)
    await life.create()
    assert (await life.client.start("demo", "blog", VISIT, wait=5)).state == "awake"
    assert (await life.client.get("many", "never0")).state == "starting"


async def test_owners_take_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks last waits for one start of another's, not for all that were asked for before."""
    monkeypatch.setattr(starts, "LONGEST_TURN", 0.05)
    async with a_world(tmp_path, max_starting=1) as world, world.up() as life:
        gate = world.driver.block("start")
        await ask_for_many(life, 5)
        await life.create()
        asking = asyncio.ensure_future(life.client.start("demo", "blog", VISIT, wait=5))
        while life.service.context.turns.waiting < 5:
            await asyncio.sleep(0)
        gate.release()
        server = await asking
        assert server.state == "awake" and server.instance is not None
        started = [call.instance for call in world.driver.calls if call.action == "start"]
        assert started.index(server.instance.id) == 2
