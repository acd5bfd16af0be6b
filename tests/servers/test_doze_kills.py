"""The control plane is killed around a doze: what is frozen is withdrawn, and a visit finds the same instance."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.servers.dozing import VISIT, awake, dozing, named, paused, sleep, target
from tests.servers.world import Life, World

pytestmark = pytest.mark.anyio


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


EFFECTS = ["transact", "batch", "transact", "pause", "transact", "resume", "batch", "transact"]
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
        again = await life.client.get("demo", "blog")
        assert (again.state, named(again), await paused(life)) == ("dozing", instance, [True])
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
