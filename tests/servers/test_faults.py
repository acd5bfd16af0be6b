"""Servers that behave badly, and sleepers that come back with an old decision: nobody else suffers, nothing loops."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

import pytest
from tests.servers.world import Life, World

from sourcelair.auth import Identity
from sourcelair.client.ceryx import Acknowledgement, InstanceCounts, NodeReport, NodeTotal
from sourcelair.client.servers import ServerInput, SleepRequest, Spec, StartRequest
from sourcelair.errors import Unavailable
from sourcelair.servers.drivers.base import ExitStatus
from sourcelair.servers.drivers.mock import Script
from sourcelair.servers.events import follow
from sourcelair.servers.worker import Worker

pytestmark = pytest.mark.anyio

HOST = "blog--demo.localhost"
VISIT = StartRequest(cause="visit")


async def until_down(worker: Worker) -> None:
    while worker.record.instance is not None or worker.record.state not in {"asleep", "failed"}:
        await worker.change()


async def visit(life: Life) -> Any:
    """Visit it, whatever comes of that."""
    try:
        return await life.client.start("demo", "blog", VISIT, wait=5)
    except Unavailable as error:
        return error


async def test_ready_and_then_dead(life: Life) -> None:
    """The next visit wakes it; from the second time on it is held back; and in the end it is given up."""
    await life.create(script=Script(serves=True, output=b"out of luck\n"), spec={"wake": {"tries": 3}})
    worker = life.service.worker("demo", "blog")
    for failures, state in ((1, "asleep"), (2, "asleep"), (3, "failed")):
        server = await visit(life)
        assert server.state == "awake"
        life.world.driver.end(server.instance.id, ExitStatus(code=3))
        await until_down(worker)
        assert (worker.record.failures, worker.record.state) == (failures, state)
        life.world.clock_set_by += 5  # longer than the pause
    assert worker.record.given_up and worker.record.retry_at is None
    assert (worker.record.failure, worker.record.failure_log) == ("it exited with code 3", ["out of luck"] * 3)
    error = await visit(life)
    assert isinstance(error, Unavailable) and "tries are used up" in error.detail
    assert error.extra["state"] == "failed" and error.extra.get("retry_at") is None
    assert error.retry_after is None
    life.world.clock_set_by += 10**6
    assert isinstance(await visit(life), Unavailable), "no time passes that makes it good"
    assert life.world.driver.count("start") == 3
    life.world.script("demo", "blog", Script(serves=True))
    assert (await life.client.start("demo", "blog", StartRequest(), wait=5)).state == "awake"
    assert not worker.record.given_up


async def test_given_up_over_a_restart_another_spec_tries_again(world: World) -> None:
    async with world.up() as life:
        await life.create(script=Script(fail="no"), spec={"wake": {"tries": 1}})
        assert isinstance(await visit(life), Unavailable)
    async with world.up() as life:
        await life.service.recovered.wait()
        assert isinstance(await visit(life), Unavailable)
        assert world.driver.count("start") == 0
        await life.create(spec={"wake": {"tries": 1}, "readiness": {"path": "/health"}})
        assert (await visit(life)).state == "awake"


async def test_always_on_it_goes_on_trying(life: Life) -> None:
    """At the longest pause, and a visit does not hurry it."""
    await life.create(script=Script(fail="no"), spec={"wake": {"tries": 1}}, always_on=True)
    server = await life.until("failed")
    assert (server.given_up, server.desired) == (False, "awake")
    assert server.retry_at is not None and server.retry_at - life.world.now() > 290
    error = await visit(life)
    assert isinstance(error, Unavailable) and error.extra["retry_at"] == server.retry_at
    life.world.script("demo", "blog", Script(serves=True))
    life.world.clock_set_by += 301
    life.service.worker("demo", "blog").notify()
    await life.until("awake")


async def test_one_that_answers_500_at_first_is_awake(life: Life) -> None:
    """That is the app's own word; who wants to wait for another says so."""
    await life.create(script=Script(serves=True, status=500))
    assert (await visit(life)).state == "awake"
    await life.client.stop("demo", "blog", wait=5)
    picky: dict[str, Any] = {"readiness": {"status": [200], "start_timeout": 0.3}}
    await life.create(script=Script(serves=True, status=500), spec=picky)
    assert "it answered 500" in (await visit(life)).detail
    await life.create(script=Script(serves=True), spec=picky)
    assert (await life.client.start("demo", "blog", StartRequest(), wait=5)).state == "awake"


async def test_when_it_is_ready_may_be_said_anew_while_it_starts(life: Life) -> None:
    """The instance goes on, and the new word counts for it."""
    slow: dict[str, Any] = {"readiness": {"status": [204], "start_timeout": 60}}
    await life.create(spec=slow)
    waiting = asyncio.ensure_future(visit(life))
    before = await life.until("starting")
    await life.create()
    after = await waiting
    assert after.state == "awake" and before.instance and after.instance
    assert before.instance.id == after.instance.id


async def test_one_that_starts_at_once(life: Life) -> None:
    """A start that is over within a millisecond is neither missed nor taken twice."""
    await life.create()
    for _ in range(10):
        answers = await asyncio.gather(*(visit(life) for _ in range(5)))
        assert {answer.state for answer in answers} == {"awake"}
        await life.client.stop("demo", "blog", wait=5)
    assert life.world.driver.count("start") == 10


async def acknowledge(life: Life, instance: str, total: int) -> None:
    """Let a node say that it applied what is newest, with nothing in flight."""
    route = await life.world.ceryx.get_route(HOST)
    said = Acknowledgement(
        generation="g1", instance=instance, revision=route.revision, in_flight=0, streams=0, total=total
    )
    await life.world.ceryx.acknowledge("node", [said])


async def sleep(
    life: Life,
    instance: str,
    seen: int,
    mode: Literal["stop", "doze"],
    really: int | None = None,
    revision: int | None = None,
    last_active: float | None = None,
) -> tuple[bool, str]:
    """Ask it to sleep, with what a sleeper saw; the node says how many there really were, once it is asked."""
    totals = [NodeTotal(node="node", generation="g1", total=seen)]
    request = SleepRequest(instance=instance, totals=totals, mode=mode, revision=revision, last_active=last_active)
    asked = asyncio.ensure_future(life.client.sleep("demo", "blog", request))
    worker = life.service.worker("demo", "blog")
    while really is not None and not asked.done() and worker.record.state == "awake":
        await asyncio.wait({asked, asyncio.ensure_future(worker.change())}, return_when=asyncio.FIRST_COMPLETED)
    while really is not None and worker.published is not None and not asked.done():
        await asyncio.sleep(0.001)
    if really is not None and not asked.done():
        await acknowledge(life, instance, really)
    result = await asked
    return result.slept, result.reason


async def with_node(life: Life, **changes: Any) -> str:
    """Have a server that is awake behind a node, and return its instance."""
    life.world.settings.idle_drain_timeout = 5
    await life.create(**changes)
    server = await life.client.start("demo", "blog", VISIT, wait=5)
    assert server.instance is not None
    await life.world.ceryx.register_node("node")
    await life.world.ceryx.report("node", NodeReport(session=1, generation="g1", applied=0, routes=1, capacity=10))
    return server.instance.id


@pytest.mark.parametrize("mode", ["stop", "doze"])
async def test_old_totals_of_a_sleeper_are_refused(life: Life, mode: Literal["stop", "doze"]) -> None:
    """It was paused between its look and its question: somebody came meanwhile, and is gone again."""
    instance = await with_node(life)
    slept, reason = await sleep(life, instance, 3, mode, really=4)
    assert not slept and "visited" in reason
    assert (await life.client.get("demo", "blog")).state == "awake"
    assert (await life.world.ceryx.get_route(HOST)).target is not None
    slept, _ = await sleep(life, instance, 4, mode, really=4)
    assert slept


async def test_an_old_decision_to_stop_what_dozes_again(life: Life) -> None:
    """It was decided before the visit that thawed it: it dozes again since, and has not done so for long enough.

    The totals can't tell: proxies forget what has been withdrawn for long, and count anew from the next visit on.
    """
    instance = await with_node(life)
    assert (await sleep(life, instance, 1, "doze", really=1))[0]
    old = await life.client.get("demo", "blog")
    assert (await visit(life)).state == "awake"
    assert (await sleep(life, instance, 1, "doze", really=1))[0]
    slept, reason = await sleep(life, instance, 1, "stop", revision=old.revision)
    assert not slept and "changed" in reason
    now = await life.client.get("demo", "blog")
    assert now.state == "dozing"
    assert (await sleep(life, instance, 0, "stop", revision=now.revision))[0], "forgotten, it counts nothing any more"


@pytest.mark.parametrize("mode", ["stop", "doze"])
async def test_an_old_decision_about_one_that_is_awake_again(life: Life, mode: Literal["stop", "doze"]) -> None:
    """It dozed and was visited meanwhile: the same totals as before, of other visits."""
    instance = await with_node(life)
    old = await life.client.get("demo", "blog")
    assert (await sleep(life, instance, 1, "doze", really=1))[0]
    await visit(life)
    slept, reason = await sleep(life, instance, 1, mode, revision=old.revision)
    assert not slept and "changed" in reason


async def test_bytes_that_passed_on_a_stream_since_the_look_cancel_a_sleep(life: Life) -> None:
    """They change no total: when it was last active tells of them."""
    instance = await with_node(life, spec={"sleep": {"streams": "flow"}})
    counts = [InstanceCounts(instance=instance, in_flight=1, streams=1, idle_streams=1, total=1, last_active=100.0)]
    report = NodeReport(session=1, generation="g1", applied=0, routes=1, capacity=10, counts=counts)
    await life.world.ceryx.report("node", report)
    slept, reason = await sleep(life, instance, 1, "stop", really=1, last_active=99.0)
    assert not slept and "used" in reason
    assert (await life.world.ceryx.get_route(HOST)).target is not None
    assert (await sleep(life, instance, 1, "stop", really=1, last_active=100.0))[0]


@pytest.mark.parametrize("mode", ["stop", "doze"])
async def test_two_starts_a_sleep_and_a_stop_at_once(life: Life, mode: Literal["stop", "doze"]) -> None:
    """In whatever order they get their turn: one instance at most, and a way on."""
    await life.create()
    for delay in range(12):
        server = await life.client.start("demo", "blog", StartRequest(), wait=5)
        assert server.instance is not None
        request = SleepRequest(instance=server.instance.id, totals=[], mode=mode)

        async def later(what: Any, turns: int) -> Any:
            for _ in range(turns):
                await asyncio.sleep(0)
            return await what

        async with asyncio.timeout(20):
            await asyncio.gather(
                later(life.client.sleep("demo", "blog", request), 0),
                later(life.client.start("demo", "blog", VISIT, wait=5), delay * 3),
                later(life.client.stop("demo", "blog", wait=5), 40 - delay * 3),
                later(life.client.start("demo", "blog", VISIT, wait=5), delay * 5),
            )
            assert len(await life.world.driver.find_all()) <= 1
            after = await life.client.start("demo", "blog", VISIT, wait=5)
        found = await life.world.driver.find_all()
        assert after.instance is not None
        assert [(one.instance, one.paused) for one in found] == [(after.instance.id, False)]
        assert (await life.world.ceryx.get_route(HOST)).instance == after.instance.id


async def test_who_changed_it_is_in_the_events(life: Life) -> None:
    """The actor goes with the token; a service asks for visitors."""
    await life.create()
    owner = life.as_("owner-demo")

    async def actor() -> str | None:
        return (await life.client.get("demo", "blog")).actor

    await life.client.start("demo", "blog", VISIT, wait=5)
    assert await actor() == "visitor"
    await owner.stop("demo", "blog", wait=5)
    assert await actor() == "owner"
    await life.as_("admin").start("demo", "blog", StartRequest(), wait=5)
    assert await actor() == "admin"
    await owner.restart("demo", "blog", wait=5)
    assert await actor() == "owner"
    await life.client.stop("demo", "blog", wait=5)
    assert await actor() == "service"
    seen: set[tuple[str | None, str | None]] = set()
    last = await life.client.put("demo", "blog", ServerInput(spec=Spec(driver="mock"), enabled=False))
    async with asyncio.timeout(5):
        async for [event] in await follow(life.service.context, Identity(kind="admin"), 0):
            if event.server is not None:
                seen.add((event.server.state, event.server.actor))
            if event.revision == last.revision:
                break
    assert {("awake", "visitor"), ("stopping", "owner"), ("awake", "admin")} <= seen
