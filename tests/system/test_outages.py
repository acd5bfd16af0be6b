"""The control plane is away, stands still, or comes back with an old decision while visitors are held or arrive."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.system.lair import running_lair
from tests.system.processes import frozen
from tests.system.site import App, Site, site_of
from tests.system.visitors import Answer, Visitor

pytestmark = [pytest.mark.anyio, pytest.mark.system]

HELD = 500
"""Visitors who wait while something happens: half of them with a body."""

BODY = random.Random(1).randbytes(20_000)


@pytest.fixture
async def own(tmp_path: Path) -> AsyncIterator[Site]:
    """An installation of the test's own."""
    with running_lair(tmp_path / "own") as lair:
        async with site_of(lair) as site:
            yield site


@pytest.fixture
async def impatient(tmp_path: Path) -> AsyncIterator[Site]:
    """An installation whose visitors are held for four seconds."""
    with running_lair(tmp_path / "own", {"LAIR_WAKE_TIMEOUT": "4"}) as lair:
        async with site_of(lair) as site:
            yield site


async def crowd(app: App) -> list[Visitor]:
    """Send the requests of all who will be held, and return their connections."""
    visitors = [Visitor(app.site.address, app.host) for _ in range(HELD)]
    for number, visitor in enumerate(visitors):
        if number % 2:
            await visitor.send("POST", "/", BODY, {"X-Request": str(number)})
        else:
            await visitor.send("GET", "/", headers={"X-Request": str(number)})
    return visitors


async def answers(visitors: list[Visitor]) -> list[Answer]:
    """Return what they got, and let them go."""
    async with asyncio.timeout(60):
        got = await asyncio.gather(*(visitor.answer() for visitor in visitors))
    for visitor in visitors:
        await visitor.close()
    return got


async def test_hemera_is_killed_while_500_are_held(own: Site, tmp_path: Path) -> None:
    """It comes back a second later: every request is answered, arrived once and whole, by one start."""
    app = await own.identity("outage", "killed", tmp_path, gated=True)
    visitors = await crowd(app)
    await app.until("starting")
    own.lair.kill9()
    app.let_up()
    await asyncio.sleep(1.0)
    assert app.requests() == {}
    await asyncio.to_thread(own.lair.start)
    got = await answers(visitors)
    assert {answer.status for answer in got} == {200}
    assert {answer.json()["sha256"] for answer in got[1::2]} == {hashlib.sha256(BODY).hexdigest()}
    assert app.requests() == {str(number): 1 for number in range(HELD)}
    assert len(app.starts()) == 1


async def test_hemera_is_killed_and_does_not_come_back(impatient: Site, tmp_path: Path) -> None:
    """All 500 get a clean 504 when their time is over, and none of them has reached an app."""
    app = await impatient.identity("outage", "gone", tmp_path, delay=30)
    visitors = await crowd(app)
    await app.until("starting")
    impatient.lair.kill9()
    got = await answers(visitors)
    assert {(answer.status, answer.headers["content-type"]) for answer in got} == {(504, "application/problem+json")}
    assert {answer.json()["status"] for answer in got} == {504}
    assert app.requests() == {}


async def test_the_api_stands_still_during_a_wake(own: Site, tmp_path: Path) -> None:
    """It answers nothing for some seconds, in which the server has long come up: who is held is answered then."""
    app = await own.identity("outage", "still", tmp_path, gated=True)
    held = [
        asyncio.create_task(app.fetch("/", method="POST", body=BODY, headers={"X-Request": str(number)}))
        for number in range(20)
    ]
    await app.until("starting")
    assert own.lair.up is not None
    with frozen([own.lair.up.pid]):
        app.let_up()
        while not app.starts():
            await asyncio.sleep(0.02)
        late = asyncio.create_task(app.fetch("/", headers={"X-Request": "late"}))
        await asyncio.sleep(2.0)
        assert not any(visit.done() for visit in [*held, late]), "nobody knows yet that it is ready"
    assert {visit.status for visit in await asyncio.gather(*held, late)} == {200}
    assert app.requests() == {**{str(number): 1 for number in range(20)}, "late": 1}
    assert len(app.starts()) == 1


async def test_the_sleeper_is_paused_and_comes_back_with_an_old_decision(own: Site, tmp_path: Path) -> None:
    """It stops at any moment around its decision, for as long as somebody visits: nothing fails, nothing is cut off.

    Whoever comes meanwhile is answered at once where the target was not withdrawn yet, and when it goes on where it
    was; a request that began meanwhile ends, whatever was decided before it.
    """
    idle, dice = 0.4, random.Random(20151124)
    app = await own.identity("outage", "paused", tmp_path, idle_timeout=idle)
    assert own.lair.up is not None
    rounds, at_once = 14, 0
    for number in range(rounds):
        assert (await app.fetch("/")).status == 200
        await asyncio.sleep(idle + dice.uniform(-0.02, 0.15))
        with frozen([own.lair.up.pid]):
            visits = [
                asyncio.create_task(app.fetch("/slow?0.6", headers={"X-Request": f"get-{number}"})),
                asyncio.create_task(app.fetch("/", method="POST", body=BODY, headers={"X-Request": f"post-{number}"})),
            ]
            await asyncio.wait(visits, timeout=0.3)
            at_once += visits[1].done()
        assert [visit.status for visit in await asyncio.gather(*visits)] == [200, 200]
    expected = {f"{kind}-{number}": 1 for kind in ("get", "post") for number in range(rounds)}
    assert app.requests() == expected
    assert app.twice() == []
    assert 0 < at_once <= rounds
    await app.until("asleep")
    assert len(app.starts()) <= rounds + 1
