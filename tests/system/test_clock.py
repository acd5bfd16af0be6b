"""The machine's clock jumps while servers wake, sleep and are visited: nothing is lost, and they sleep all the same."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from tests.system.lair import running_lair
from tests.system.site import Site, site_of
from tests.system.visitors import traffic

pytestmark = [pytest.mark.anyio, pytest.mark.system]

SOURCE = Path(__file__).parent / "apps" / "clock.c"

Jump = Callable[[int], None]


@pytest.fixture
async def jumping(tmp_path: Path) -> AsyncIterator[tuple[Site, Jump]]:
    """An installation, and what sets its clock to so many seconds after the machine's."""
    clock = tmp_path / "clock"

    def jump(seconds: int) -> None:
        (tmp_path / "next").write_text(f"{seconds:+d}\n")
        (tmp_path / "next").rename(clock)

    jump(0)
    library = tmp_path / "clock.so"
    subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", library, SOURCE], check=True)
    env = {"LD_PRELOAD": str(library), "TEST_CLOCK": str(clock)}
    with running_lair(tmp_path / "lair", env) as lair:
        async with site_of(lair) as site:
            yield site, jump


@pytest.mark.parametrize("seconds", [3600, -5])
async def test_the_clock_jumps(jumping: tuple[Site, Jump], tmp_path: Path, seconds: int) -> None:
    """An hour on, or some seconds back, under traffic and while it starts: no failure, one start, and it sleeps."""
    site, jump = jumping
    app = await site.identity("clock", "jumps", tmp_path, idle_timeout=1.0, gated=True)
    waking = asyncio.create_task(app.fetch("/"))
    await app.until("starting")
    jump(seconds)
    app.let_up()
    assert (await waking).status == 200
    async with traffic(site.address, app.host) as seen:
        for jumps in (2, 3):
            await asyncio.sleep(0.5)
            jump(jumps * seconds)
        await asyncio.sleep(0.5)
    app.check_books(seen)
    asleep = await app.until("asleep")
    assert abs(asleep.changed_at - time.time() - 3 * seconds) < 4, "or its clock did not jump"
    assert len(app.starts()) == 1
    assert (await app.fetch("/")).status == 200
    await app.stop()
    assert (await app.fetch("/")).status == 200
    assert len(app.starts()) == 3
