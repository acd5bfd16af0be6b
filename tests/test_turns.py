"""Turns are bounded, and owners take them in turn."""

from __future__ import annotations

import asyncio
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sourcelair.turns import QueueFull, Turns

pytestmark = pytest.mark.anyio


async def test_no_more_at_once_than_allowed() -> None:
    turns, running, most = Turns(3), 0, 0

    async def work(owner: str) -> None:
        nonlocal running, most
        async with turns.take(owner):
            running += 1
            most = max(most, running)
            await asyncio.sleep(0)
            running -= 1

    await asyncio.gather(*(work(f"o{n % 4}") for n in range(50)))
    assert most == 3
    assert turns.waiting == 0


async def test_one_with_many_servers_delays_nobody_else() -> None:
    turns, order = Turns(1), list[str]()

    async def work(owner: str) -> None:
        async with turns.take(owner):
            order.append(owner)
            await asyncio.sleep(0)

    await asyncio.gather(*(work("many") for _ in range(5)), work("few"))
    assert order.index("few") <= 2


async def test_who_leaves_the_queue_gives_its_turn_back() -> None:
    turns, entered = Turns(1), asyncio.Event()

    async def work(release: asyncio.Event) -> None:
        async with turns.take("a"):
            entered.set()
            await release.wait()

    release = asyncio.Event()
    first = asyncio.create_task(work(release))
    await entered.wait()
    waiting = [asyncio.create_task(work(release)) for _ in range(3)]
    await asyncio.sleep(0)
    assert turns.waiting == 3
    for task in waiting[:2]:
        task.cancel()
    await asyncio.wait(waiting[:2])
    release.set()
    await asyncio.gather(first, waiting[2])
    async with turns.take("b"):
        assert turns.waiting == 0


async def test_a_turn_that_ended_early_is_passed_on_once() -> None:
    turns, entered = Turns(1), list[str]()

    async def work(owner: str) -> None:
        async with turns.take(owner):
            entered.append(owner)

    async with turns.take("slow") as turn:
        turn.end_after(0)
        await asyncio.gather(work("a"), work("b"))
        assert entered == ["a", "b"]
        turn.end()
    async with turns.take("c"):
        waiting = asyncio.create_task(work("d"))
        await asyncio.sleep(0)
        assert turns.waiting == 1, "there is one turn still, not two"
    await waiting


class Line:
    """Those who wait for turns and keep them until they are let go; `order` is who got one, in the order of that."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns
        self.order = list[tuple[str, str]]()
        self.tasks = dict[tuple[str, str], asyncio.Task[None]]()
        self._ends = dict[tuple[str, str], asyncio.Event]()

    async def join(self, owner: str, name: str) -> None:
        key = (owner, name)
        end = self._ends[key] = asyncio.Event()

        async def work() -> None:
            async with self.turns.take(owner, key):
                self.order.append(key)
                await end.wait()

        self.tasks[key] = asyncio.create_task(work())
        await settle()

    async def end(self, owner: str, name: str) -> None:
        self._ends[owner, name].set()
        await self.tasks[owner, name]
        await settle()

    async def leave(self) -> None:
        for task in self.tasks.values():
            task.cancel()
        await asyncio.gather(*self.tasks.values(), return_exceptions=True)


async def settle() -> None:
    """Let everybody run who can."""
    for _ in range(3):
        await asyncio.sleep(0)


class Drip:
    """A rate that a test opens and closes, by owner: seconds until the next turn."""

    def __init__(self) -> None:
        self.left = dict[str, float]()
        self.taken = list[str]()

    def wait(self, owner: str) -> float:
        return self.left.get(owner, 0.0)

    def take(self, owner: str) -> None:
        self.taken.append(owner)

    def give_back(self, owner: str) -> None:
        self.taken.remove(owner)


async def test_one_owner_has_no_more_than_its_own_bound() -> None:
    line = Line(Turns(4, per_owner=2))
    for name in "abc":
        await line.join("many", name)
    assert line.order == [("many", "a"), ("many", "b")]
    await line.join("few", "a")
    assert line.order[-1] == ("few", "a"), "whoever is over its bound stands in nobody's way"
    await line.end("many", "a")
    assert line.order[-1] == ("many", "c")
    await line.leave()


async def test_a_full_queue_refuses() -> None:
    line = Line(Turns(1, queue=3, queue_per_owner=2))
    for owner, name in [("a", "1"), ("a", "2"), ("a", "3"), ("b", "1")]:
        await line.join(owner, name)
    assert line.turns.waiting == 3
    for owner in ("a", "b", "c"):
        with pytest.raises(QueueFull):
            async with line.turns.take(owner, (owner, "late")):
                pass
    assert line.turns.waiting == 3
    assert line.turns.place(("a", "late")) is None
    await line.end("a", "1")
    await line.join("c", "1")
    assert line.turns.place(("c", "1")) is not None, "there is room again"
    await line.leave()
    assert line.turns.waiting == 0


async def test_places_count_down_and_are_told() -> None:
    told = 0

    def changed() -> None:
        nonlocal told
        told += 1

    line = Line(Turns(1, changed=changed))
    await line.join("a", "now")
    for name in "123":
        await line.join("a", name)
    await line.join("b", "1")
    places = {key: line.turns.place(key) for key in [("a", "now"), ("a", "1"), ("b", "1"), ("a", "2"), ("a", "3")]}
    assert list(places.values()) == [None, 1, 2, 3, 4]
    before = told
    await line.end("a", "now")
    assert told > before
    assert line.turns.place(("b", "1")) == 1
    line.tasks["b", "1"].cancel()
    await settle()
    assert line.turns.place(("a", "2")) == 1
    await line.leave()


async def test_who_is_over_its_rate_lets_others_pass() -> None:
    rate = Drip()
    line = Line(Turns(8, rate=rate))
    rate.left["fast"] = math.inf
    await line.join("fast", "1")
    await line.join("slow", "1")
    assert line.order == [("slow", "1")]
    assert rate.taken == ["slow"]
    assert line.turns.place(("fast", "1")) == 1
    await line.leave()


async def test_the_rate_gives_the_next_turn_by_itself() -> None:
    rate = Drip()
    turns = Turns(8, rate=rate)
    rate.left["a"] = 0.01

    def over() -> None:
        rate.left.clear()

    asyncio.get_running_loop().call_later(0.005, over)
    async with asyncio.timeout(5), turns.take("a"):
        assert rate.taken == ["a"]


async def test_a_turn_for_nothing_counts_for_nothing() -> None:
    rate = Drip()
    turns = Turns(1, rate=rate)
    async with turns.take("a") as turn:
        turn.give_back()
        turn.give_back()
    assert rate.taken == []


async def test_a_turn_that_nobody_took_any_more_counts_for_nothing() -> None:
    """It was given in the same moment in which the one that waited was cancelled."""
    rate = Drip()
    line = Line(Turns(1, rate=rate))
    await line.join("a", "1")
    await line.join("b", "1")
    line._ends["a", "1"].set()
    for _ in range(10):
        await asyncio.sleep(0)
        if rate.taken == ["a", "b"] and not line.order[1:]:
            break
    else:
        pytest.fail("the moment never came")
    line.tasks["b", "1"].cancel()
    await settle()
    assert rate.taken == ["a"]
    await line.join("c", "1")
    assert line.order[-1] == ("c", "1")
    await line.leave()


@settings(max_examples=60, deadline=None)
@given(owners=st.lists(st.sampled_from("abcd"), max_size=25), gone=st.sets(st.integers(0, 24), max_size=8))
def test_places_are_the_order_in_which_turns_are_given(owners: list[str], gone: set[int]) -> None:
    async def run() -> None:
        line = Line(Turns(1))
        await line.join("first", "0")
        for number, owner in enumerate(owners):
            await line.join(owner, str(number))
        for number in gone & set(range(len(owners))):
            line.tasks[owners[number], str(number)].cancel()
        await settle()
        places = dict(line.turns.places())
        assert sorted(places.values()) == list(range(1, len(places) + 1))
        while len(line.order) <= len(places):
            await line.end(*line.order[-1])
            for key, place in places.items():
                expected = place - len(line.order) + 1
                assert line.turns.place(key) == (expected if expected > 0 else None)
            if len(line.order) == len(places) + 1:
                break
        assert line.order[1:] == sorted(places, key=lambda key: places[key])
        await line.leave()

    asyncio.run(run())


@settings(max_examples=60, deadline=None)
@given(
    steps=st.lists(st.tuples(st.sampled_from(["join", "end", "cancel"]), st.sampled_from("abc")), max_size=40),
    most=st.integers(1, 4),
    per_owner=st.integers(1, 4),
)
def test_bounds_hold_and_no_turn_is_left_lying(steps: list[tuple[str, str]], most: int, per_owner: int) -> None:
    async def run() -> None:
        line = Line(Turns(most, per_owner=per_owner))
        for number, (step, owner) in enumerate(steps):
            having = [key for key in line.order if key[0] == owner and not line.tasks[key].done()]
            if step == "join":
                await line.join(owner, str(number))
            elif step == "end" and having:
                await line.end(*having[0])
            elif step == "cancel":
                for key, task in line.tasks.items():
                    if key[0] == owner and not task.done():
                        task.cancel()
                        break
                await settle()
            running = [key for key in line.order if not line.tasks[key].done()]
            counts = {each: sum(key[0] == each for key in running) for each in "abc"}
            assert len(running) <= most
            assert max(counts.values()) <= per_owner
            waiting = {key[0] for key in line.turns.places()}
            assert len(running) == most or not any(counts[each] < per_owner for each in waiting)
        await line.leave()
        assert line.turns.waiting == 0

    asyncio.run(run())
