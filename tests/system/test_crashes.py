"""kill -9 of every part, one at a time: what was lost, what was started twice, and what visitors noticed of it."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest
from tests.system.lair import Lair
from tests.system.processes import gone, master, serving, workers
from tests.system.site import App, Site
from tests.system.visitors import traffic

pytestmark = [pytest.mark.anyio, pytest.mark.system]


async def test_visitors_of_awake_servers_do_not_notice_that_the_control_plane_dies(
    site: Site, lair: Lair, tmp_path: Path
) -> None:
    """Constant traffic over kill -9 and restart: no failure, the same instance, adopted."""
    app = await site.identity("crash", "control", tmp_path)
    await app.fetch("/")
    before = await app.server()
    async with traffic(site.address, app.host) as seen:
        await asyncio.sleep(0.3)
        lair.kill9()
        await asyncio.sleep(0.5)
        await asyncio.to_thread(lair.start)
        await asyncio.sleep(0.5)
    app.check_books(seen)
    after = await app.until("awake")
    assert after.instance is not None
    assert before.instance is not None
    assert after.instance.id == before.instance.id
    assert len(app.starts()) == 1
    await app.stop()
    assert (await app.fetch("/")).status == 200
    assert len(app.starts()) == 2


async def test_a_control_plane_that_dies_during_a_start_starts_nothing_twice(
    site: Site, lair: Lair, tmp_path: Path
) -> None:
    """Visitors who wait go on waiting, and are answered by the one start, or by the one that replaced it."""
    app = await site.identity("crash", "starting", tmp_path, gated=True)
    waiting = [
        asyncio.create_task(app.fetch(f"/{number}", method="POST", body=b"x", headers={"X-Request": str(number)}))
        for number in range(5)
    ]
    await app.until("starting")
    await asyncio.sleep(0.2)
    lair.kill9()
    app.let_up()
    await asyncio.to_thread(lair.start)
    answers = await asyncio.gather(*waiting)
    assert [answer.status for answer in answers] == [200] * 5, answers[0]
    assert app.requests() == {str(number): 1 for number in range(5)}
    server = await app.until("awake")
    assert server.instance is not None
    assert app.starts()[-1] == server.instance.id
    assert len(app.starts()) == 1


async def test_a_project_server_that_is_killed_is_woken_by_the_next_visit(site: Site, tmp_path: Path) -> None:
    """kill -9 of the app: the next visitor waits for a new instance, and gets its answer."""
    app = await site.identity("crash", "project", tmp_path)
    pid = (await app.fetch("/")).json()["pid"]
    os.kill(pid, signal.SIGKILL)
    # What is written to a connection that just breaks is never sent twice: a POST in that very moment gets a 502.
    await gone([pid])
    while (await app.server()).instance is not None:
        await asyncio.sleep(0.01)
    answer = await app.fetch("/", method="POST", body=b"again", headers={"X-Request": "again"})
    assert answer.status == 200
    assert answer.json()["pid"] != pid
    assert len(app.starts()) == 2
    assert app.requests() == {"again": 1}


async def test_all_of_nginx_is_killed(site: Site, lair: Lair, tmp_path: Path) -> None:
    """It is started again by itself, routes are back from what the agent knows, and the server was never touched."""
    app = await site.identity("crash", "nginx", tmp_path)
    await app.fetch("/")
    for pid in [master(lair), *workers(lair)]:
        os.kill(pid, signal.SIGKILL)
    await serving(site)
    assert (await app.fetch("/")).status == 200
    assert len(app.starts()) == 1
    assert await sleeps(app)


async def test_the_master_alone_is_killed(site: Site, lair: Lair, tmp_path: Path) -> None:
    """Its orphaned workers end, a new NGINX serves, and withdrawals count again: a sleep works."""
    app = await site.identity("crash", "master", tmp_path)
    await app.fetch("/")
    old = master(lair)
    orphans = workers(lair)
    os.kill(old, signal.SIGKILL)
    await gone([old, *orphans])
    await serving(site)
    assert master(lair) != old
    assert (await app.fetch("/")).status == 200
    assert len(app.starts()) == 1
    assert await sleeps(app)


async def test_one_worker_is_killed_with_requests_in_flight(site: Site, lair: Lair, tmp_path: Path) -> None:
    """Its visitors lose their connections, the other worker's are answered, counts heal, and a later sleep works."""
    app = await site.identity("crash", "worker", tmp_path)
    await app.fetch("/")
    slow = [asyncio.create_task(app.fetch("/slow?1.5")) for _ in range(16)]
    await asyncio.sleep(0.5)
    os.kill(workers(lair)[0], signal.SIGKILL)
    results = await asyncio.gather(*slow, return_exceptions=True)
    broken = [result for result in results if isinstance(result, (OSError, asyncio.IncompleteReadError))]
    answered = [result for result in results if not isinstance(result, BaseException) and result.status == 200]
    assert len(answered) + len(broken) == 16, results
    assert (await app.fetch("/")).status == 200
    assert await sleeps(app)
    assert (await app.fetch("/")).status == 200
    assert len(app.starts()) == 2


async def sleeps(app: App) -> bool:
    """Whether an idle stop comes through within a few attempts: counts may take a moment to heal."""
    for _ in range(50):
        if await app.sleep():
            return True
        await asyncio.sleep(0.1)
    return False


async def test_nginx_is_reloaded_by_somebody(site: Site, lair: Lair, tmp_path: Path) -> None:
    """No operation of ours, but people do it: old and new workers share numbers, and counts stay right all the same."""
    app = await site.identity("crash", "reloaded", tmp_path)
    await app.fetch("/")
    slow = asyncio.create_task(app.fetch("/slow?3", headers={"X-Request": "slow"}))
    while not app.requests():
        await asyncio.sleep(0.01)
    lair.nginx()[0].send_signal(signal.SIGHUP)
    while not slow.done():
        assert (await app.fetch("/")).status == 200
    assert (await slow).status == 200
    assert len(app.starts()) == 1
    assert await sleeps(app)
    assert (await app.fetch("/")).status == 200
    assert len(app.starts()) == 2
