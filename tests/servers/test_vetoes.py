"""What keeps a server awake: asked before the drain, looked at while it drains; and the app itself has a word."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.servers.world import Life

from sourcelair.client.servers import SleepRequest, SleepResult, StartRequest
from sourcelair.servers import drains
from sourcelair.servers.drivers.mock import Script
from sourcelair.servers.records import ServerRecord
from sourcelair.servers.worker import Worker

pytestmark = pytest.mark.anyio

HOST = "blog--demo.localhost"
VISIT = StartRequest(cause="visit")


async def awake(life: Life, **changes: Any) -> SleepRequest:
    """Have a server that is awake, and return a request to stop it."""
    await life.create(**changes)
    server = await life.client.start("demo", "blog", VISIT, wait=5)
    assert server.instance is not None
    return SleepRequest(instance=server.instance.id, totals=[])


async def keep(worker: Worker, **until: float) -> None:
    """Let the instance be kept awake, as its owner or the app itself asks."""

    def change(record: ServerRecord) -> ServerRecord:
        assert record.instance is not None
        return record.model_copy(update={"instance": record.instance.model_copy(update=until)})

    await worker.update(change)


async def sleep(life: Life, request: SleepRequest) -> SleepResult:
    async with asyncio.timeout(5):
        return await life.client.sleep("demo", "blog", request)


@pytest.mark.parametrize("mode", ["stop", "doze"])
@pytest.mark.parametrize(("name", "why"), [("busy_until", "busy"), ("extended_until", "asked to keep it awake")])
async def test_busy_or_extended_it_may_not_sleep(life: Life, name: str, why: str, mode: Any) -> None:
    request = (await awake(life)).model_copy(update={"mode": mode})
    worker = life.service.worker("demo", "blog")
    await keep(worker, **{name: life.world.now() + 60})
    result = await sleep(life, request)
    assert not result.slept and why in result.reason
    assert worker.record.state == "awake"
    life.world.clock_set_by = 61
    assert (await sleep(life, request)).slept


@pytest.mark.parametrize("mode", ["stop", "doze"])
async def test_what_keeps_it_awake_cancels_the_drain(life: Life, mode: Any) -> None:
    """Like an arrival: it is published again, at once."""
    life.world.settings.idle_drain_timeout = 30
    request = (await awake(life)).model_copy(update={"mode": mode})
    await life.world.ceryx.register_node("quiet")
    sleeping = asyncio.ensure_future(sleep(life, request))
    await life.until("draining")
    await keep(life.service.worker("demo", "blog"), busy_until=life.world.now() + 60)
    result = await sleeping
    assert not result.slept and "busy" in result.reason
    assert (await life.world.ceryx.get_route(HOST)).target is not None
    assert (await life.client.get("demo", "blog")).state == "awake"


@pytest.mark.parametrize("mode", ["stop", "doze"])
async def test_what_is_told_that_it_is_kept_awake_is(life: Life, mode: Any) -> None:
    """Its word is stored while the end of the drain waits for the disk, and comes first."""
    request = (await awake(life)).model_copy(update={"mode": mode})
    worker = life.service.worker("demo", "blog")
    async with worker.publishing:
        sleeping = asyncio.ensure_future(sleep(life, request))
        await life.until("draining")
        await worker._writing.acquire()
        extended = asyncio.ensure_future(life.client.extend("demo", "blog", 60))
        while not worker._writing._waiters:  # type: ignore[attr-defined] # it stands in line before the drain does
            await asyncio.sleep(0)
    while len(worker._writing._waiters) < 2:  # type: ignore[attr-defined]
        await asyncio.sleep(0)
    worker._writing.release()
    await extended
    result = await sleeping
    assert not result.slept and "keep it awake" in result.reason
    assert (await life.client.get("demo", "blog")).state == "awake"


@pytest.mark.parametrize("mode", ["stop", "doze"])
async def test_what_came_in_the_way_counts_though_it_is_over(
    life: Life, mode: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody has agreed to the sleep by then: it must not go on."""
    life.world.settings.idle_drain_timeout = 30
    request = (await awake(life)).model_copy(update={"mode": mode})
    await life.world.ceryx.register_node("quiet")
    answers = [False, True]
    monkeypatch.setattr(drains, "is_disturbed", lambda _: answers.pop(0) if answers else False)
    sleeping = asyncio.ensure_future(sleep(life, request))
    await life.until("draining")
    while len(answers) == 2:
        await asyncio.sleep(0)
    life.service.worker("demo", "blog").notify()
    result = await sleeping
    assert not result.slept
    assert (await life.client.get("demo", "blog")).state == "awake"


async def test_awake_for_too_short_a_time_it_may_not_sleep(life: Life) -> None:
    request = await awake(life, spec={"sleep": {"min_awake": 60}})
    result = await sleep(life, request)
    assert not result.slept and "60 s" in result.reason
    life.world.clock_set_by = 61
    assert (await sleep(life, request)).slept


@pytest.mark.parametrize(("status", "slept"), [(200, True), (204, True), (301, False), (404, False), (500, False)])
@pytest.mark.parametrize("mode", ["stop", "doze"])
async def test_the_app_is_asked(life: Life, status: int, slept: bool, mode: Any) -> None:
    """2xx is a yes, anything else a no."""
    check = {"sleep": {"check": "/may-i-sleep"}, "readiness": {"status": [status]}}
    request = await awake(life, script=Script(serves=True, status=status), spec=check)
    result = await sleep(life, request.model_copy(update={"mode": mode}))
    assert result.slept is slept
    if not slept:
        assert result.reason == f"it answered {status} to GET /may-i-sleep"
        assert (await life.client.get("demo", "blog")).state == "awake"
        assert (await life.world.ceryx.get_route(HOST)).target is not None


async def test_what_dozes_is_not_asked(life: Life) -> None:
    """It could not answer: it was asked before it was frozen."""
    request = await awake(life, spec={"sleep": {"check": "/may-i-sleep"}})
    assert (await sleep(life, request.model_copy(update={"mode": "doze"}))).slept
    assert (await sleep(life, request)).slept
    await life.until("asleep")


async def test_no_answer_is_a_no(life: Life) -> None:
    """Nobody listens, or nobody answers in time."""
    life.world.settings.check_timeout = 0.1
    request = await awake(life, spec={"sleep": {"check": "/may-i-sleep"}})
    running = life.world.driver._instance(request.instance)
    running.running.clear()
    result = await sleep(life, request)
    assert not result.slept and "did not answer GET /may-i-sleep" in result.reason
    running.running.set()
    assert running.listener is not None
    life.world.driver.deafen(request.instance)
    result = await sleep(life, request)
    assert not result.slept and "does not listen" in result.reason
    assert life.world.driver.count("stop") == 0


async def test_an_explicit_stop_does_not_wait_for_the_check(life: Life) -> None:
    life.world.settings.check_timeout = 30
    request = await awake(life, spec={"sleep": {"check": "/may-i-sleep"}})
    life.world.driver._instance(request.instance).running.clear()
    sleeping = asyncio.ensure_future(sleep(life, request))
    while life.service.worker("demo", "blog").sleeping is None:
        await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await life.client.stop("demo", "blog", wait=5)
    assert not (await sleeping).slept


@pytest.mark.parametrize("what", ["visit", "busy", "exit"])
async def test_what_comes_while_the_app_is_asked_counts_more(life: Life, what: str) -> None:
    life.world.settings.check_timeout = 30
    request = await awake(life, spec={"sleep": {"check": "/may-i-sleep"}})
    running = life.world.driver._instance(request.instance)
    running.running.clear()
    sleeping = asyncio.ensure_future(sleep(life, request))
    worker = life.service.worker("demo", "blog")
    while worker.sleeping is None:
        await asyncio.sleep(0)
    if what == "visit":  # whoever asks for it while it is awake
        await life.client.start("demo", "blog", StartRequest(), wait=5)
        running.running.set()
    elif what == "busy":
        await keep(worker, busy_until=life.world.now() + 60)
    else:
        life.world.driver.end(request.instance)
    assert not (await sleeping).slept
    assert life.world.driver.count("stop") == 0 or what == "exit"
