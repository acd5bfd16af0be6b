"""Dozing: frozen while nobody uses it, the same instance for the next visit; and all that can come between."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.servers.dozing import VISIT, awake, dozing, named, paused, sleep, target
from tests.servers.world import Life

from sourcelair.client.servers import StartRequest
from sourcelair.servers import keeping
from sourcelair.servers.drivers.base import Found
from sourcelair.servers.drivers.mock import MockDriver, Script

pytestmark = pytest.mark.anyio


async def test_it_dozes_withdrawn_and_frozen(life: Life) -> None:
    instance = await dozing(life)
    server = await life.client.get("demo", "blog")
    assert (server.state, server.desired, server.cause, server.actor) == ("dozing", "asleep", "idle", "hemera")
    assert named(server) == instance
    assert await paused(life) == [True]
    assert await target(life) is None


async def test_a_visit_thaws_the_same_instance(life: Life) -> None:
    instance = await dozing(life)
    before = await life.client.get("demo", "blog")
    after = await life.client.start("demo", "blog", VISIT, wait=5)
    assert (after.state, after.desired, after.actor, named(after)) == ("awake", "awake", "visitor", instance)
    assert after.instance and before.instance and after.instance.awake_at == before.instance.awake_at
    assert after.instance.thawed_at is not None and before.instance.thawed_at is None
    assert await paused(life) == [False]
    assert await target(life) is not None
    timing = after.timing
    assert timing is not None and timing.thawed is not None and timing.published is not None
    assert (timing.spawned, timing.thawed <= timing.published) == (None, True)
    assert life.world.driver.count("start") == 1


async def test_a_thaw_writes_nothing_to_disk_before_it_publishes(life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits for it waits for one sync, the route's own."""
    await dozing(life)
    order: list[str] = []
    transact, batch = life.service.context.store.transact, life.service.context.ceryx.batch

    async def transact_seen(*args: Any, **kwargs: Any) -> int:
        order.append("record")
        return await transact(*args, **kwargs)

    async def batch_seen(*args: Any, **kwargs: Any) -> Any:
        order.append("route")
        return await batch(*args, **kwargs)

    monkeypatch.setattr(life.service.context.store, "transact", transact_seen)
    monkeypatch.setattr(life.service.context.ceryx, "batch", batch_seen)
    await life.client.start("demo", "blog", VISIT, wait=5)
    assert order == ["route", "record"]


async def test_a_hundred_visits_are_one_thaw(life: Life) -> None:
    instance = await dozing(life)
    answers = await asyncio.gather(*(life.client.start("demo", "blog", VISIT, wait=5) for _ in range(100)))
    assert {named(answer) for answer in answers} == {instance}
    assert life.world.driver.count("resume") == 1


async def test_who_does_not_wait_is_served_too(life: Life) -> None:
    instance = await dozing(life)
    assert (await life.client.start("demo", "blog", VISIT)).desired == "awake"
    assert named(await life.until("awake")) == instance


async def test_an_arrival_cancels_the_drain(life: Life) -> None:
    instance = await awake(life)
    await life.world.ceryx.register_node("quiet")
    sleeping = asyncio.ensure_future(sleep(life, instance))
    await life.until("draining")
    assert named(await life.client.start("demo", "blog", VISIT, wait=5)) == instance
    assert (await sleeping).slept is False
    assert life.world.driver.count("pause") == 0
    assert await target(life) is not None


async def test_an_arrival_while_it_is_being_frozen_thaws_it_at_once(life: Life) -> None:
    """It does not wait until it is frozen."""
    instance = await awake(life)
    gate = life.world.driver.block("pause")
    sleeping = asyncio.ensure_future(sleep(life, instance))
    await gate.reached.wait()
    assert named(await life.client.start("demo", "blog", VISIT, wait=5)) == instance
    assert (await sleeping).slept is False
    assert await paused(life) == [False]


async def test_what_kept_it_awake_is_taken_back_while_it_is_being_frozen(
    life: Life, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the freeze has come to nothing: it is awake as before, and never stopped for a doze."""
    instance = await awake(life)
    freezing, cancelled, over = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def pause(found: Found) -> None:
        freezing.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
            await over.wait()

    monkeypatch.setattr(life.world.driver, "pause", pause)
    sleeping = asyncio.ensure_future(sleep(life, instance))
    await freezing.wait()
    worker = life.service.worker_of(instance)
    await keeping.busy(worker, instance, 60)
    await cancelled.wait()
    await keeping.busy(worker, instance, 0)
    over.set()
    assert (await sleeping).slept is False
    assert named(await life.until("awake")) == instance
    assert await target(life) is not None


async def test_dozing_long_enough_it_is_stopped(life: Life) -> None:
    """Straight away: it is withdrawn, and nothing is in flight."""
    instance = await dozing(life)
    assert (await sleep(life, instance, "stop")).slept
    server = await life.until("asleep")
    assert (server.cause, server.actor, server.desired) == ("idle", "hemera", "asleep")
    assert server.last_exit is not None and server.last_exit.expected
    assert await life.world.driver.find_all() == []


async def test_a_stop_after_a_doze_names_what_it_saw(life: Life) -> None:
    instance = await dozing(life)
    assert not (await sleep(life, "another", "stop")).slept
    assert "already" in (await sleep(life, instance)).reason
    assert (await life.client.get("demo", "blog")).state == "dozing"


async def test_what_can_not_be_frozen_stays_awake_and_is_not_tried_again(life: Life) -> None:
    """Neither one that the driver fails to freeze, for a while; it is published again meanwhile."""
    instance = await awake(life, script=Script(serves=True, pause_fails="something holds it"))
    result = await sleep(life, instance)
    assert not result.slept and "something holds it" in result.reason
    assert named(await life.until("awake")) == instance
    assert await target(life) is not None
    again = await sleep(life, instance)
    assert not again.slept and "something holds it" in again.reason
    assert life.world.driver.count("pause") == 1
    assert (await sleep(life, instance, "stop")).slept, "it may be stopped all the same"


async def test_a_driver_that_can_not_pause_says_so(life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    instance = await awake(life)
    monkeypatch.setattr(life.world.driver, "capabilities", frozenset())
    result = await sleep(life, instance)
    assert not result.slept and "can't freeze" in result.reason
    assert (await life.client.get("demo", "blog")).state == "awake"


async def test_what_can_not_be_thawed_is_replaced(life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its visitors get the next instance."""
    instance = await dozing(life)

    async def fail(found: Found) -> None:
        raise OSError("the freezer does not answer")

    monkeypatch.setattr(life.world.driver, "resume", fail)
    after = await life.client.start("demo", "blog", VISIT, wait=5)
    assert after.state == "awake" and named(after) != instance


async def test_killed_while_it_dozes(life: Life) -> None:
    instance = await dozing(life)
    life.world.driver.end(instance)
    server = await life.until("asleep")
    assert server.last_exit is not None and not server.last_exit.expected
    assert server.actor == "instance"
    assert named(await life.client.start("demo", "blog", VISIT, wait=5)) != instance


async def test_a_connect_that_fails_right_after_the_thaw(life: Life) -> None:
    """The process decides: the same instance, published again."""
    instance = await dozing(life)
    thawed = await life.client.start("demo", "blog", VISIT, wait=5)
    request = StartRequest(cause="unreachable", failed_instance=instance, failed_revision=thawed.route_revision)
    again = await life.client.start("demo", "blog", request, wait=5)
    assert named(again) == instance
    assert (again.route_revision or 0) > (thawed.route_revision or 0)


async def test_made_always_on_it_is_thawed(life: Life) -> None:
    instance = await dozing(life)
    await life.create(always_on=True)
    assert named(await life.until("awake")) == instance
    assert "always on" in (await sleep(life, instance)).reason


async def test_its_policy_may_change_while_it_dozes(life: Life) -> None:
    """What does not concern the process leaves it alone."""
    instance = await dozing(life)
    await life.create(spec={"sleep": {"stop_after": 5}, "wake": {"patience": 0}, "readiness": {"path": "/health"}})
    assert (await life.client.get("demo", "blog")).state == "dozing"
    assert named(await life.client.start("demo", "blog", VISIT, wait=5)) == instance


async def test_a_write_that_fails_after_the_thaw_is_tried_again(life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    """Published and not yet stored as awake: it is not frozen meanwhile."""
    instance = await dozing(life)
    transact, failed = life.service.context.store.transact, asyncio.Event()

    async def fail_once(*args: Any, **kwargs: Any) -> int:
        if not failed.is_set():
            failed.set()
            raise OSError("no space left on device")
        return await transact(*args, **kwargs)

    monkeypatch.setattr(life.service.context.store, "transact", fail_once)
    after = await life.client.start("demo", "blog", VISIT, wait=5)
    assert failed.is_set()
    assert (after.state, named(after)) == ("awake", instance)
    assert await paused(life) == [False]


async def test_an_old_decision_of_a_sleeper_is_refused(life: Life) -> None:
    """It was paused when it had decided, and comes back: the instance is another by now."""
    for mode in ("stop", "doze"):
        old = await awake(life)
        await life.client.restart("demo", "blog", wait=5)
        result = await sleep(life, old, mode)  # type: ignore[arg-type]
        assert not result.slept and "another instance" in result.reason


def test_the_mock_driver_can_pause() -> None:
    """Else all of this would prove nothing."""
    assert "pause" in MockDriver().capabilities
