"""Turns are bounded, and owners take them in turn."""

from __future__ import annotations

import asyncio

import pytest

from sourcelair.turns import Turns

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
