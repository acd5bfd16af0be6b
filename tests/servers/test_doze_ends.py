"""Explicit ends of servers that doze, are about to, or are just being thawed."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.servers.dozing import VISIT, awake, dozing, sleep, target
from tests.servers.world import Life

from sourcelair.servers import asking

pytestmark = pytest.mark.anyio


STOPS = ["stop", "restart", "remove", "disable", "respec"]


async def end(life: Life, how: str) -> None:
    """Ask for an explicit end, and wait until it has been asked for."""
    match how:
        case "stop":
            await life.client.stop("demo", "blog", wait=0)
        case "restart":
            await life.client.restart("demo", "blog", wait=0)
        case "remove":
            await life.client.delete("demo", "blog", wait=0)
        case "disable":
            await life.create(enabled=False)
        case _:
            await life.create(spec={"env": {"A": "1"}})


async def ended(life: Life, how: str, instance: str) -> None:
    """Wait until nothing of it is left, and look at what comes after."""
    worker = life.service.worker("demo", "blog")
    async with asyncio.timeout(5):
        while worker.record.instance_id == instance and not worker.removed:
            await worker.change()
        if how == "remove":
            while not worker.removed:
                await worker.change()
        elif how == "restart":
            await life.until("awake")
        else:
            await life.until("asleep")
    left = [found.instance for found in await life.world.driver.find_all()]
    assert instance not in left
    assert len(left) == (how == "restart")
    if how != "remove":
        assert (await target(life) is not None) == (how == "restart")


@pytest.mark.parametrize("how", STOPS)
async def test_an_explicit_end_of_what_dozes(life: Life, how: str) -> None:
    instance = await dozing(life)
    await end(life, how)
    await ended(life, how, instance)


@pytest.mark.parametrize("point", ["pause", "resume"])
@pytest.mark.parametrize("how", STOPS)
async def test_an_explicit_end_while_it_is_frozen_or_thawed(life: Life, how: str, point: Any) -> None:
    instance = await awake(life)
    gate = life.world.driver.block(point)
    asks = [asyncio.ensure_future(sleep(life, instance))]
    if point == "resume":
        await asks[0]
        asks.append(asyncio.ensure_future(life.client.start("demo", "blog", VISIT)))  # type: ignore[arg-type]
    await gate.reached.wait()
    await end(life, how)
    gate.release()
    await ended(life, how, instance)
    await asyncio.gather(*asks)


@pytest.mark.parametrize("how", STOPS)
async def test_an_explicit_end_while_it_drains_for_a_doze(life: Life, how: str) -> None:
    instance = await awake(life)
    await life.world.ceryx.register_node("quiet")
    sleeping = asyncio.ensure_future(sleep(life, instance))
    await life.until("draining")
    await end(life, how)
    await ended(life, how, instance)
    assert (await sleeping).slept is False
    assert life.world.driver.count("pause") == 0


async def test_a_stop_while_it_is_published_again(life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the thaw and the record that says so."""
    instance = await dozing(life)
    worker = life.service.worker("demo", "blog")
    publish = worker.publish

    async def publish_and_stop(*args: Any) -> int:
        revision = await publish(*args)
        monkeypatch.undo()
        await asking.stop(worker, 0)
        return revision

    monkeypatch.setattr(worker, "publish", publish_and_stop)
    visit = asyncio.ensure_future(life.client.start("demo", "blog", VISIT, wait=0.01))
    await ended(life, "stop", instance)
    await visit
