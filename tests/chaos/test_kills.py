"""The control plane is killed again and again, while servers wake, sleep and are stopped under traffic."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest
from tests.chaos.conftest import stalling_lair
from tests.system.lair import Lair
from tests.system.site import App, Site, site_of
from tests.system.visitors import traffic

from sourcelair.errors import LairError

pytestmark = [pytest.mark.anyio, pytest.mark.system, pytest.mark.timeout(240)]

KILLS = 12
SEED = 20151124


async def kill_again_and_again(lair: Lair, kills: int, dice: random.Random) -> None:
    for _ in range(kills):
        await asyncio.sleep(dice.uniform(0.05, 1.2))
        lair.kill9()
        await asyncio.sleep(dice.choice([0.0, 0.0, 0.3]))
        await asyncio.to_thread(lair.start)


async def stop_again_and_again(app: App, done: asyncio.Event, dice: random.Random, *, idle: bool) -> None:
    """Ask for stops for as long as the others run; the API may be gone at any moment, and answer nothing."""
    while not done.is_set():
        await asyncio.sleep(dice.uniform(0.1, 1.5))
        try:
            async with asyncio.timeout(10):
                await (app.sleep() if idle else app.stop())
        except (LairError, TimeoutError):
            continue


async def visit(app: App, done: asyncio.Event, *, gap: float, number: int) -> None:
    """Visit by GET and POST until all is over; then every request must have arrived once, and been answered."""
    async with traffic(app.site.address, app.host, visitors=2, gap=gap, prefix=f"k{number}") as seen:
        await done.wait()
    app.check_books(seen)
    assert len(seen.answered) == len(seen.sent)


async def settle(site: Site, apps: list[App]) -> None:
    """Wait until nobody is on the way to anywhere."""
    for app in apps:
        await app.until("asleep", "awake")


async def test_the_control_plane_is_killed_again_and_again(tmp_path: Path) -> None:
    """Nothing lost, nothing doubled, nothing started twice, nothing left behind."""
    dice = random.Random(SEED)
    with stalling_lair(tmp_path / "lair") as lair:
        async with site_of(lair) as site:
            apps = [await site.identity("kills", f"app{number}", tmp_path, delay=0.1 * number) for number in range(4)]
            steady = await site.identity("kills", "steady", tmp_path)
            assert (await steady.fetch("/")).status == 200
            done = asyncio.Event()
            async with asyncio.TaskGroup() as group:
                for number, app in enumerate([*apps, steady]):
                    group.create_task(visit(app, done, gap=dice.choice([0.01, 0.1, 0.4]), number=number))
                for number, app in enumerate(apps):
                    group.create_task(stop_again_and_again(app, done, random.Random(number), idle=number % 2 == 0))
                await kill_again_and_again(lair, KILLS, dice)
                done.set()
            await settle(site, apps)
            assert len(steady.starts()) == 1, "nobody stopped it, and it was adopted every time"
            running = {process.environ()["LAIR_INSTANCE"] for process in lair.instances()}
            known = [(await app.server()).instance for app in [*apps, steady]]
            assert running == {instance.id for instance in known if instance is not None}
            for app in apps:
                assert len(app.starts()) == len(set(app.starts()))
                assert app.twice() == [], "two instances of one server ran at once"
