"""Asking for the time left, waiting for the warning, and visitors asking for more: at a time that the test sets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from tests.hemera.facts import NOW, activity, server

from sourcelair.client.ceryx import Activity, CeryxClient
from sourcelair.client.servers import Server, ServersClient
from sourcelair.errors import Conflict, Forbidden, NotFound, Unreachable
from sourcelair.hemera import remaining
from sourcelair.hemera.activities import Activities
from sourcelair.hemera.directory import Directory
from sourcelair.hemera.remaining import Remaining
from sourcelair.hemera.timeleft import IN_USE

pytestmark = pytest.mark.anyio

HOST = "blog.test"


class Services(ServersClient, CeryxClient):
    """Both services, of one server."""

    def __init__(self) -> None:
        super().__init__("http://nobody.test")
        self.now = NOW
        self.seen: dict[str, Any] = {}
        self.looks = list[list[str]]()
        self.extended = list[float]()
        self.server: Server | None = None
        self.down = False

    async def list(self, *, host: str | None = None) -> list[Server]:
        return []

    async def activity(self, instances: Sequence[str]) -> list[Activity]:
        self.looks.append([*instances])
        await asyncio.sleep(0)
        if self.down:
            raise Unreachable("nobody answers")
        return [activity(**{"instance": each, **self.seen}) for each in instances]

    async def extend(self, owner: str, project: str, seconds: float) -> Server:
        self.extended.append(seconds)
        await asyncio.sleep(0)
        return self.tell(extended_until=self.now + seconds)

    def tell(self, **facts: Any) -> Server:
        before = 0 if self.server is None else self.server.revision
        self.server = server(revision=before + 1, hosts=[HOST], **facts)
        return self.server


class World:
    """The time left as all others ask for it."""

    def __init__(self, longest: float = 600.0) -> None:
        self.services = Services()
        self.directory = Directory(self.services)
        self.activities = Activities(self.services, lambda: self.services.now)
        self.remaining = Remaining(self.services, self.activities, self.directory, longest, lambda: self.services.now)
        self.running = asyncio.create_task(self.activities.run())
        self.tell(awake_at=NOW - 20)

    def tell(self, **facts: Any) -> None:
        self.directory.take(self.services.tell(**facts))

    async def close(self) -> None:
        self.running.cancel()
        await asyncio.wait([self.running])
        await self.services.close()


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    yield world
    await world.close()


async def test_however_many_ask_ceryx_is_asked_once_a_second(world: World) -> None:
    told = await asyncio.gather(*(world.remaining.at(HOST) for _ in range(100)))
    assert {left.seconds_left for left in told} == {40}
    world.services.now += 0.9
    assert (await world.remaining.named("demo", "blog")).seconds_left == pytest.approx(39.1)
    assert len(world.services.looks) == 1
    world.services.now += 0.2
    await world.remaining.at(HOST)
    assert len(world.services.looks) == 2


async def test_those_who_ask_about_many_are_one_request(world: World) -> None:
    await asyncio.gather(*(world.activities.of(f"i{number}") for number in range(400)))
    assert len(world.services.looks) <= 2
    assert sum(len(look) for look in world.services.looks) == 400
    world.services.now += 2
    await world.activities.of("i1")
    assert len(world.activities._known) == 1, "what is old is forgotten"


async def test_who_asks_while_ceryx_is_away_is_told_so(world: World) -> None:
    world.services.down = True
    with pytest.raises(Unreachable):
        await world.remaining.at(HOST)
    world.services.down = False
    assert (await world.remaining.at(HOST)).seconds_left == 40


async def test_nobody_is_asked_about_what_is_asleep(world: World) -> None:
    world.tell(state="asleep", instance=None)
    assert (await world.remaining.at(HOST)).state == "asleep"
    assert world.services.looks == []
    with pytest.raises(NotFound):
        await world.remaining.at("nobody.test")


async def test_a_visitor_asks_for_more(world: World) -> None:
    left = await world.remaining.extend(HOST, 300)
    assert (left.seconds_left, left.reason) == (300, "extended")
    assert world.services.extended == [300]


async def test_a_visitor_gets_no_more_than_the_longest(world: World) -> None:
    assert (await world.remaining.extend(HOST, 1e9)).seconds_left == 600


async def test_a_visitor_takes_nothing_from_a_longer_extension(world: World) -> None:
    world.tell(extended_until=NOW + 5000)
    assert (await world.remaining.extend(HOST, 300)).seconds_left == 5000
    assert world.services.extended == []


async def test_a_thousand_visitors_who_ask_are_one_write(world: World) -> None:
    told = await asyncio.gather(*(world.remaining.extend(HOST, 300) for _ in range(1000)))
    assert {left.seconds_left for left in told} == {300}
    assert world.services.extended == [300]
    assert not world.remaining._extending


async def test_what_is_not_awake_can_not_be_kept_awake(world: World) -> None:
    world.tell(state="asleep", instance=None)
    with pytest.raises(Conflict):
        await world.remaining.extend(HOST, 300)


async def test_it_may_be_switched_off() -> None:
    world = World(longest=0)
    with pytest.raises(Forbidden):
        await world.remaining.extend(HOST, 300)
    await world.close()


async def test_the_warning_comes_and_goes(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is given when it begins, and when it is over: by a visit, by an extension, or because it sleeps."""
    pauses = list[float | None]()

    async def changed(timeout: float | None = None, host: str | None = None) -> None:
        pauses.append(timeout)
        world.services.now += timeout or 0.0

    monkeypatch.setattr(world.directory, "changed", changed)
    watch = world.remaining.watch(HOST)
    async with asyncio.timeout(5):
        left = await anext(watch)
        assert (left.warning, left.seconds_left) == (True, 30)
        assert pauses == [10], "nobody is asked before it can be so"
        world.services.seen = {"last_active": world.services.now}
        left = await anext(watch)
        assert (left.warning, left.seconds_left) == (False, 59)
        assert pauses[1:] == [remaining.WARNED_PAUSE]
        left = await anext(watch)
        assert left.warning
        world.tell(extended_until=world.services.now + 200)
        left = await anext(watch)
        assert (left.warning, left.reason) == (False, "extended")
        left = await anext(watch)
        assert left.warning
        world.tell(state="asleep", instance=None)
        left = await anext(watch)
        assert (left.warning, left.state) == (False, "asleep")
    await watch.aclose()


async def test_nobody_is_warned_while_a_stream_is_open(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.services.seen = {"active": 1, "in_flight": 1, "streams": 1}
    waited = asyncio.Event()

    async def changed(timeout: float | None = None, host: str | None = None) -> None:
        assert timeout == 30, "it can't be due before"
        world.services.now += timeout
        if world.services.now > NOW + 200:
            waited.set()
            await asyncio.Event().wait()

    monkeypatch.setattr(world.directory, "changed", changed)
    assert (await world.remaining.at(HOST)).reason == IN_USE
    watching = asyncio.ensure_future(anext(world.remaining.watch(HOST)))
    async with asyncio.timeout(5):
        await waited.wait()
    assert not watching.done()
    watching.cancel()
    await asyncio.wait([watching])


async def test_whoever_watches_hears_of_an_extension_at_once(world: World) -> None:
    world.tell(awake_at=NOW - 50)
    watch = world.remaining.watch(HOST)
    assert (await anext(watch)).warning
    following = asyncio.ensure_future(anext(watch))
    for _ in range(20):
        await asyncio.sleep(0)
    world.services.now += 1.5
    await world.remaining.extend(HOST, 300)
    async with asyncio.timeout(5):
        assert not (await following).warning
    await watch.aclose()
