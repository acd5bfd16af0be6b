"""Dozing: frozen while nobody uses it, the same instance for the next visit; and all that can come between."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

import pytest
from tests.servers.world import Life, World

from sourcelair.client.servers import Server, SleepRequest, SleepResult, StartRequest
from sourcelair.servers import asking
from sourcelair.servers.drivers.base import Found
from sourcelair.servers.drivers.mock import MockDriver, Script

pytestmark = pytest.mark.anyio

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


class Killed(Exception):
    """What a control plane does that was killed before."""


class Killer:
    """Kills a control plane at its n-th effect on the world, before or after it: nothing that it does lands after."""

    def __init__(self, at: int, *, after: bool) -> None:
        self.at, self.after = at, after
        self.effects: list[str] = []
        self.dead = asyncio.Event()
        self.published_frozen: list[str] = []
        """After which effects the target of what is frozen was published."""

    def aim(self, monkeypatch: pytest.MonkeyPatch, life: Life) -> None:
        context, driver = life.service.context, life.world.driver
        self.life = life
        for owner, name in ((context.store, "transact"), (context.ceryx, "batch")):
            monkeypatch.setattr(owner, name, self.over(name, getattr(owner, name)))
        for name in ("pause", "resume", "stop"):
            monkeypatch.setattr(driver, name, self.over(name, getattr(driver, name)))

    def over(self, name: str, effect: Any) -> Any:
        async def do(*args: Any, **kwargs: Any) -> Any:
            if self.dead.is_set():
                raise Killed
            self.effects.append(name)
            if len(self.effects) - 1 < self.at:
                return await self.look(name, await effect(*args, **kwargs))
            if self.after:
                await self.look(name, await effect(*args, **kwargs))
            self.dead.set()
            raise Killed

        return do

    async def look(self, name: str, done: Any) -> Any:
        if await paused(self.life) == [True] and await target(self.life) is not None:
            self.published_frozen.append(name)
        return done


EFFECTS = ["transact", "batch", "transact", "pause", "resume", "batch", "transact"]
"""Of a doze and the visit after it."""


async def doze_and_visit(life: Life, instance: str) -> None:
    await sleep(life, instance)
    await life.client.start("demo", "blog", VISIT, wait=5)


async def until_dead(life: Life, killer: Killer, instance: str) -> None:
    asked = asyncio.ensure_future(doze_and_visit(life, instance))
    dead = asyncio.ensure_future(killer.dead.wait())
    await asyncio.wait({asked, dead}, return_when=asyncio.FIRST_COMPLETED)
    for task in (asked, dead):
        task.cancel()
    await asyncio.gather(asked, dead, return_exceptions=True)


async def test_the_effects_of_a_doze_and_a_visit(life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the next test kills it at each of them."""
    instance = await awake(life)
    killer = Killer(len(EFFECTS), after=False)
    killer.aim(monkeypatch, life)
    await until_dead(life, killer, instance)
    assert killer.effects == EFFECTS


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("at", range(len(EFFECTS)))
async def test_killed_at_each_point(world: World, monkeypatch: pytest.MonkeyPatch, at: int, after: bool) -> None:
    """What is frozen is withdrawn, what is published is not frozen, and a visit finds the same instance."""
    async with world.up() as life:
        instance = await awake(life)
        killer = Killer(at, after=after)
        killer.aim(monkeypatch, life)
        await until_dead(life, killer, instance)
        assert killer.dead.is_set() and killer.published_frozen == []
        monkeypatch.undo()
        was_paused = await paused(life)
    async with world.up() as life:
        await life.service.recovered.wait()
        server = await life.client.get("demo", "blog")
        assert server.state == ("dozing" if was_paused == [True] else "awake")
        assert (await target(life) is None) == (server.state == "dozing")
        assert await paused(life) == [server.state == "dozing"]
        assert named(await life.client.start("demo", "blog", VISIT, wait=5)) == instance
        assert await paused(life) == [False] and await target(life) is not None
        assert world.driver.count("start") == 0
        assert (await sleep(life, instance)).slept, "it dozes again"
        await life.client.stop("demo", "blog", wait=5)
        assert await world.driver.find_all() == []


async def test_who_comes_while_the_api_is_coming_back(world: World) -> None:
    """Before it has looked at what dozes: thawed first, then published."""
    async with world.up() as life:
        instance = await dozing(life)
    async with world.up() as life:
        assert named(await life.client.start("demo", "blog", VISIT, wait=5)) == instance
        assert await paused(life) == [False] and await target(life) is not None


async def test_what_dozed_and_ended_meanwhile_sleeps(world: World) -> None:
    async with world.up() as life:
        instance = await dozing(life)
    world.driver.end(instance)
    async with world.up() as life:
        server = await life.until("asleep")
        assert server.last_exit is not None and not server.last_exit.expected
        assert named(await life.client.start("demo", "blog", VISIT, wait=5)) != instance


async def test_what_dozes_and_is_unknown_is_ended(world: World) -> None:
    """Frozen or not."""
    async with world.up() as life:
        await dozing(life)
    for file in world.directory.glob("servers.db*"):
        file.unlink()
    async with world.up() as life:
        await life.service.context.ready.wait()
        async with asyncio.timeout(5):
            while await world.driver.find_all():
                await asyncio.sleep(0.01)


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
