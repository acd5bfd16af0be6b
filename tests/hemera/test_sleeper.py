"""Who is looked at when, and what follows: with a clock that the test sets, and services that say what it wants."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from tests.hemera.facts import NOW, activity, server

from sourcelair.client.ceryx import Activity, CeryxClient
from sourcelair.client.servers import Server, ServersClient, SleepRequest, SleepResult
from sourcelair.errors import Unreachable
from sourcelair.hemera.directory import Directory
from sourcelair.hemera.sleeper import SOONEST, Sleeper

pytestmark = pytest.mark.anyio


class Services(ServersClient, CeryxClient):
    """Both services: they know of activity what a test says, and let sleep whom it does not forbid."""

    def __init__(self) -> None:
        super().__init__("http://nobody.test")
        self.seen = dict[str, dict[str, Any]]()
        self.looks = list[list[str]]()
        self.asked = list[tuple[str, str]]()
        self.refusal: str | None = None
        self.down = False

    async def activity(self, instances: Sequence[str]) -> list[Activity]:
        if self.down:
            raise Unreachable("nobody answers")
        self.looks.append(list(instances))
        return [activity(**{"instance": each, **self.seen.get(each, {})}) for each in instances]

    async def sleep(self, owner: str, project: str, request: SleepRequest) -> SleepResult:
        self.asked.append((project, request.mode))
        return SleepResult(slept=self.refusal is None, reason=self.refusal or "idle")


class World:
    """A sleeper at a time that the test sets."""

    def __init__(self) -> None:
        self.now = NOW
        self.services = Services()
        self.directory = Directory(self.services)
        self.sleeper = Sleeper(self.services, self.services, self.directory, lambda: self.now)
        self.revision = 0

    def tell(self, project: str = "blog", sleep: dict[str, Any] | None = None, **facts: Any) -> Server:
        """Let the API say how a server is."""
        self.revision += 1
        told = server(sleep, project=project, revision=self.revision, hosts=[f"{project}.test"], **facts)
        if told.instance is not None:
            told.instance.id = f"i-{project}"
        self.directory.take(told)
        return told

    async def look(self, later: float = 0.0) -> float | None:
        """Let some seconds pass, and all be looked at who are due; the seconds until the next."""
        self.now += later
        async with asyncio.TaskGroup() as tasks:
            await self.sleeper.look(tasks)
        async with asyncio.TaskGroup() as tasks:
            return await self.sleeper.look(tasks)


@asynccontextmanager
async def _world() -> AsyncIterator[World]:
    world = World()
    try:
        yield world
    finally:
        await world.services.close()


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with _world() as world:
        yield world


async def test_nobody_is_looked_at_before_it_may_be_idle(world: World) -> None:
    world.tell(awake_at=NOW - 10)
    assert await world.look() == pytest.approx(50)
    assert world.services.looks == []
    await world.look(50)
    assert world.services.asked == [("blog", "stop")]


async def test_a_visit_that_was_seen_moves_the_next_look(world: World) -> None:
    world.tell()
    world.services.seen["i-blog"] = {"last_active": NOW - 20}
    assert await world.look() == pytest.approx(40)
    world.services.seen["i-blog"] = {"last_active": NOW + 30}
    assert await world.look(40) == pytest.approx(50)
    assert world.services.asked == []


async def test_it_dozes_and_is_stopped_later(world: World) -> None:
    dozes = {"doze_after": 20.0}
    world.tell(sleep=dozes)
    world.services.seen["i-blog"] = {"last_active": NOW - 25}
    await world.look()
    assert world.services.asked == [("blog", "doze")]
    world.tell(sleep=dozes, state="draining", changed_at=NOW)
    world.tell(sleep=dozes, state="dozing", changed_at=NOW)
    assert await world.look() == pytest.approx(35)
    await world.look(35)
    assert world.services.asked == [("blog", "doze"), ("blog", "stop")]


async def test_one_that_was_thawed_is_not_frozen_before_its_visit_comes(world: World) -> None:
    dozes = {"doze_after": 20.0}
    world.services.seen["i-blog"] = {"last_active": NOW - 25}
    world.tell(sleep=dozes, state="dozing", changed_at=NOW - 5)
    await world.look()
    world.tell(sleep=dozes, state="awake", changed_at=NOW, thawed_at=NOW)
    assert await world.look() == pytest.approx(20)
    assert world.services.asked == []


async def test_a_new_policy_counts_at_once(world: World) -> None:
    world.tell(sleep={"stop_after": 3600.0}, awake_at=NOW - 100)
    assert await world.look() == pytest.approx(3500)
    world.tell(sleep={"stop_after": 120.0}, awake_at=NOW - 100)
    assert await world.look() == pytest.approx(20)
    world.tell(sleep={"stop_after": 7200.0}, awake_at=NOW - 100)
    assert await world.look(20) == pytest.approx(7080)


async def test_what_keeps_it_awake_moves_the_look_without_asking_anybody(world: World) -> None:
    world.tell(awake_at=NOW - 50)
    world.tell(awake_at=NOW - 50, extended_until=NOW + 500)
    assert await world.look(100) == pytest.approx(400)
    world.tell(awake_at=NOW - 50, always_on=True)
    assert await world.look() is None
    assert world.services.looks == []


async def test_an_app_that_says_no_is_asked_less_and_less(world: World) -> None:
    world.services.refusal = "it answered 409 to GET /idle"
    world.tell(sleep={"check": "/idle"})
    pauses = [await world.look()]
    for _ in range(6):
        pauses.append(await world.look(pauses[-1] or 0))
    assert pauses == [pytest.approx(pause) for pause in (1, 2, 4, 8, 16, 30, 30)]
    world.services.seen["i-blog"] = {"last_active": world.now}
    assert await world.look(30) == pytest.approx(30), "idle again 60 s after that visit"
    assert await world.look(30) == pytest.approx(1), "a visit between makes it a new question"


async def test_other_refusals_pass_soon(world: World) -> None:
    world.services.refusal = "the proxy node n1 is silent"
    world.tell()
    pauses = [await world.look()]
    for _ in range(4):
        pauses.append(await world.look(pauses[-1] or 0))
    assert pauses == [pytest.approx(pause) for pause in (1, 2, 4, 5, 5)]
    assert len(world.services.asked) == 5


async def test_an_idle_stop_that_was_cancelled_is_not_tried_again_at_once(world: World) -> None:
    world.tell()
    await world.look()
    world.tell(state="draining", changed_at=world.now)
    world.tell(state="awake", changed_at=world.now)
    assert await world.look() == pytest.approx(1)
    assert len(world.services.asked) == 1


async def test_ceryx_being_away_puts_nobody_to_sleep(world: World) -> None:
    world.services.down = True
    world.tell()
    assert await world.look() == pytest.approx(1)
    assert world.services.asked == []
    world.services.down = False
    await world.look(1)
    assert world.services.asked == [("blog", "stop")]


async def test_the_next_instance_begins_anew(world: World) -> None:
    world.tell()
    world.tell(state="asleep", instance=None)
    assert await world.look() is None
    assert world.services.looks == []
    world.tell(awake_at=NOW)
    assert await world.look() == pytest.approx(60)


async def test_ten_thousand_servers_cost_what_changes(world: World) -> None:
    """Only those who are due are asked about, in few requests; the others are not even looked at."""
    for number in range(10_000):
        if number % 10:
            world.tell(f"p{number}", state="asleep", instance=None)
        else:
            world.tell(f"p{number}", awake_at=NOW - 60 + number / 10_000)
    await world.look(0.5)
    assert sum(len(look) for look in world.services.looks) == 501
    assert len(world.services.looks) <= 2
    assert len(world.services.asked) == 501
    asked = len(world.services.looks)
    for _ in range(50):
        world.tell("p1", state="asleep", instance=None)
        await world.look()
    assert len(world.services.looks) == asked


async def test_it_wakes_up_for_who_is_due_sooner() -> None:
    """Running by itself, in real time: what is due next is not what was due next when it lay down."""
    async with _world() as world:
        world.sleeper._clock = lambda: NOW
        world.directory.synced.set()
        world.tell("late", awake_at=NOW - 10)
        running = asyncio.create_task(world.sleeper.run())
        await asyncio.sleep(0)
        world.tell("now")
        async with asyncio.timeout(5):
            while not world.services.asked:
                await asyncio.sleep(0)
        running.cancel()
        await asyncio.wait([running])
        assert world.services.asked == [("now", "stop")]


async def test_one_in_use_is_not_looked_at_all_the_time_however_soon_it_may_sleep(world: World) -> None:
    world.tell(sleep={"stop_after": 1e-9})
    world.services.seen["i-blog"] = {"active": 1, "in_flight": 1}
    assert await world.look() == pytest.approx(SOONEST)
    assert world.services.looks == [["i-blog"]]
