"""What users of all systems of this kind ask for, one test for each, in the order of the design."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import statistics
import sys
import time
from pathlib import Path

import pytest
import websockets
from tests.system.lair import Lair
from tests.system.site import App, Site
from tests.system.tiny import built
from tests.system.visitors import Visitor, traffic

from sourcelair.client.policy import SleepPolicy
from sourcelair.client.servers import ServerInput

pytestmark = [pytest.mark.anyio, pytest.mark.system]

PERSON = {"Accept": "text/html,*/*;q=0.8", "Sec-Fetch-Mode": "navigate", "User-Agent": "Mozilla/5.0"}
PROGRAM = {"Accept": "application/json", "User-Agent": "my-script"}
MONITOR = {"User-Agent": "UptimeRobot/2.0"}

IDLE = 0.8
"""Seconds without activity before these servers sleep."""


def socket_to(app: App) -> websockets.connect:
    """Return a WebSocket to be opened."""
    address, port = app.site.address
    return websockets.connect(f"ws://{app.host}:{port}/ws", host=address, port=port, proxy=None)


async def test_01_an_open_websocket_or_stream_keeps_it_awake(site: Site, tmp_path: Path) -> None:
    """For longer than the idle time, with nothing said; once it is closed, the server sleeps."""
    app = await site.identity("ask", "streams", tmp_path, idle_timeout=IDLE)
    async with socket_to(app) as socket:
        await asyncio.sleep(3 * IDLE)
        await socket.send("still there?")
        assert await socket.recv() == f"{app.name}: still there?"
    events = await app.fetch(f"/stream?{int(3 * IDLE / 0.2)}", headers={"Accept": "text/event-stream"})
    assert events.body.count(b"data:") == int(3 * IDLE / 0.2)
    assert len(app.starts()) == 1
    await app.until("asleep")


async def test_02_an_app_says_that_it_is_busy_or_is_asked_before_it_sleeps(site: Site, tmp_path: Path) -> None:
    """It calls with its own token and stays awake, visited or not; another one is asked each time, and may say no."""
    busy = await site.identity("ask", "busy", tmp_path, idle_timeout=IDLE)
    assert (await busy.fetch("/busy?60")).json()["said"] == 200
    asked = await site.identity("ask", "asked", tmp_path, policy=SleepPolicy(stop_after=IDLE, check="/may-sleep"))
    veto = asked.books / "veto"
    veto.touch()
    assert (await asked.fetch("/")).status == 200
    await asyncio.sleep(3 * IDLE)
    assert {(await app.server()).state for app in (busy, asked)} == {"awake"}
    veto.unlink()
    assert (await busy.fetch("/busy?0")).json()["said"] == 200
    for app in (busy, asked):
        assert (await app.until("asleep")).cause == "idle"
        assert len(app.starts()) == 1


async def test_03_monitors_and_bots_neither_wake_nor_extend(site: Site, tmp_path: Path) -> None:
    """They are told that it sleeps; and one that is awake goes to sleep however often they come."""
    app = await site.identity("ask", "monitored", tmp_path, idle_timeout=IDLE)
    answer = await app.fetch("/", headers=MONITOR)
    assert (answer.status, answer.headers["lair-state"]) == (503, "asleep")
    assert app.starts() == []
    assert (await app.fetch("/")).status == 200
    async with asyncio.timeout(20):
        while (await app.fetch("/", headers=MONITOR)).status == 200:
            await asyncio.sleep(0.05)
    assert (await app.until("asleep")).cause == "idle"
    assert len(app.starts()) == 1


async def test_04_page_or_hold_is_chosen_for_each_request_on_one_url(site: Site, tmp_path: Path) -> None:
    """A person sees a page, a program that asks for the same URL is held and gets its answer."""
    app = await site.identity("ask", "chosen", tmp_path, gated=True)
    program = asyncio.create_task(app.fetch("/report", headers=PROGRAM))
    person = await app.fetch("/report", headers=PERSON)
    assert (person.status, person.headers["content-type"]) == (503, "text/html; charset=utf-8")
    assert not program.done()
    app.let_up()
    assert (await program).json()["target"] == "/report"


async def test_05_the_page_at_once_and_the_app_the_instant_it_is_ready(site: Site, tmp_path: Path) -> None:
    """The page is there after `patience`; its stream says go when, and only when, the next request is the app's."""
    app = await site.identity("ask", "instant", tmp_path, delay=1.5)
    began = time.monotonic()
    assert b"<html" in (await app.fetch("/", headers=PERSON)).body
    assert time.monotonic() - began < 1.4
    assert app.starts() == []
    stages = await until_go(app)
    assert [stage["go"] for stage in stages[:-1]] == [False] * (len(stages) - 1)
    answer = await app.fetch("/", headers=PERSON)
    assert (answer.status, answer.headers["server-name"]) == (200, app.name)


async def until_go(app: App) -> list[dict[str, object]]:
    """Follow the progress that the page shows, until it says that the app is there."""
    visitor = Visitor(app.site.address, app.host)
    await visitor.send("GET", "/.hemera/events", headers={"Accept": "text/event-stream"})
    await visitor.answer(head_only=True)
    assert visitor._streams is not None
    stages: list[dict[str, object]] = []
    async with asyncio.timeout(20):
        while not (stages and stages[-1]["go"]):
            line = await visitor._streams[0].readline()
            assert line, "the stream ended before the server was ready"
            if line.startswith(b"data: ") and "go" in (stage := json.loads(line[6:])):
                stages.append(stage)
    await visitor.close()
    return stages


async def test_06_ready_means_that_the_real_app_answered(site: Site, tmp_path: Path) -> None:
    """A port that is open is not enough: nobody is let in before the app answers by itself."""
    books = tmp_path / "books"
    books.mkdir()
    moody = str(Path(__file__).parent / "apps" / "moody.py")
    await site.put("ask", "listens", [sys.executable, moody, "{port}", str(books), "mute", "1"], directory=books)
    host = site.host("ask", "listens")
    answers = await asyncio.gather(*(site.fetch(host, headers=PROGRAM) for _ in range(10)))
    assert {(answer.status, answer.body) for answer in answers} == {(200, b"well\n")}
    timing = (await site.until("ask", "listens", "awake")).timing
    assert timing is not None and timing.listening is not None and timing.ready is not None
    assert timing.ready - timing.listening > 300


async def test_07_the_first_request_and_its_body_are_never_lost(site: Site, tmp_path: Path) -> None:
    """Five megabytes to a server that sleeps arrive once, byte for byte."""
    app = await site.identity("ask", "posted", tmp_path, delay=0.5)
    body = random.Random(7).randbytes(5_000_000)
    answer = await app.fetch("/pay", method="POST", body=body, headers={"X-Request": "payment"})
    assert answer.json()["sha256"] == hashlib.sha256(body).hexdigest()
    assert app.requests() == {"payment": 1}


async def test_08_failures_are_shown_with_logs_and_retries_are_bounded(site: Site, tmp_path: Path) -> None:
    """A person and a program learn why; however many come, it is not started again for each."""
    script = f"echo started >>{tmp_path}/starts; echo 'no such module: shop' >&2; exit 7"
    await site.put("ask", "fails", ["sh", "-c", script], directory=tmp_path)
    host = site.host("ask", "fails")
    answers = await asyncio.gather(*(site.fetch(host, headers=PROGRAM) for _ in range(50)))
    assert {(answer.status, answer.headers["lair-state"]) for answer in answers} == {(503, "failed")}
    assert "code 7" in answers[0].json()["detail"]
    page = (await site.fetch(host, headers=PERSON)).body
    assert b"code 7" in page
    assert (tmp_path / "starts").read_text().count("started") <= 3, "not one for each of those who came"
    assert "no such module" in await site.servers.logs("ask", "fails")


async def test_09_waking_adds_milliseconds(site: Site, tmp_path: Path) -> None:
    """Between the visitor's arrival and the route, all but the server's own start. `bin/bench wake` measures it."""
    await site.put("ask", "quick", [str(built(tmp_path)), "{port}"], directory=tmp_path)
    added = []
    for _ in range(7):
        assert (await site.fetch(site.host("ask", "quick"))).body == b"tiny"
        timing = (await site.until("ask", "quick", "awake")).timing
        assert timing is not None and timing.published is not None
        assert timing.spawned is not None and timing.listening is not None
        added.append(timing.published - (timing.listening - timing.spawned))
        await site.servers.stop("ask", "quick")
    assert statistics.median(added) < 250, "a busy test machine, a slow disk: ten times what it usually is"


async def test_10_cold_starts_are_measured_for_each_server(site: Site, tmp_path: Path) -> None:
    """How long they usually take, how they spread, and where the time of each went: the slow one's is its own."""
    fast, slow = await site.identity("ask", "fast", tmp_path), await site.identity("ask", "slow", tmp_path, delay=0.7)
    reports = []
    for app, starts in ((fast, 3), (slow, 2)):
        for _ in range(starts):
            assert (await app.fetch("/")).status == 200
            await app.until("awake")
            await app.stop()
        reports.append(await site.servers.report(app.owner, app.project))
    assert [report.starts for report in reports] == [3, 2]
    assert [sum(report.histogram.values()) for report in reports] == [3, 2]
    assert all(report.breakdown.ready and report.last[0].published for report in reports)
    assert reports[0].usual is not None and reports[1].usual is not None
    assert reports[1].usual > 700
    assert (await slow.server()).usual_start == pytest.approx(reports[1].usual / 1000, rel=0.5)


async def test_11_the_time_left_is_told_with_a_warning_and_may_be_extended(site: Site, tmp_path: Path) -> None:
    """A page asks how long is left, is warned in time, asks for more, and that counts; asking alone is no visit."""
    policy = SleepPolicy(stop_after=4.0, warn_before=3.0)
    app = await site.identity("ask", "left", tmp_path, policy=policy)
    assert (await app.fetch("/")).status == 200
    async with asyncio.timeout(10):
        # The record says that it is awake just after the first visit was let in, and for a moment that is still open.
        while (left := await app.fetch("/.hemera/time-left")).json()["seconds_left"] is None:
            await asyncio.sleep(0.05)
    assert 0 < left.json()["seconds_left"] <= 4
    assert int(left.headers["lair-sleeps-in"]) <= 4
    assert 0 < await warned(app) <= 3
    assert (await app.fetch("/.hemera/extend?seconds=30", method="POST", body=b"")).status == 200
    assert (await app.fetch("/.hemera/time-left")).json()["seconds_left"] > 20
    await asyncio.sleep(4)
    assert (await app.server()).state == "awake"
    await site.servers.extend(app.owner, app.project, 0)  # its owner takes that back
    assert (await app.until("asleep")).cause == "idle"
    async with asyncio.timeout(10):
        while (await app.fetch("/.hemera/time-left")).json()["state"] != "asleep":
            await asyncio.sleep(0.05)
    assert len(app.starts()) == 1


async def warned(app: App) -> float:
    """Return how many seconds were left when the page's stream warned of sleep."""
    visitor = Visitor(app.site.address, app.host)
    await visitor.send("GET", "/.hemera/events", headers={"Accept": "text/event-stream"})
    await visitor.answer(head_only=True)
    assert visitor._streams is not None
    async with asyncio.timeout(20):
        while (await visitor._streams[0].readline()).strip() != b"event: sleep-warning":
            continue
        data = await visitor._streams[0].readline()
    await visitor.close()
    return float(json.loads(data.removeprefix(b"data: "))["seconds_left"])


async def test_12_asleep_can_be_told_from_down(site: Site, tmp_path: Path) -> None:
    """Every answer of ours says in a header what is the case, the app's own none; a monitor's look wakes nobody."""
    app = await site.identity("ask", "told", tmp_path)
    await site.put("ask", "broken", ["false"], directory=tmp_path)

    async def state(host: str, headers: dict[str, str]) -> str | None:
        return (await site.fetch(host, method="HEAD", headers=headers)).headers.get("lair-state")

    assert await state(app.host, MONITOR) == "asleep"
    assert app.starts() == []
    assert await state(site.host("ask", "broken"), PROGRAM) == "failed"
    asked = await site.fetch(site.host("ask", "broken"), "/.hemera/time-left", headers=MONITOR)
    assert asked.json()["state"] == "failed", "which a monitor can ask, since that wakes nobody"
    assert await state("nobody--ask.localhost", MONITOR) == "unknown-host"
    assert (await app.fetch("/")).status == 200
    assert await state(app.host, MONITOR) is None
    spec = (await app.server()).spec
    await site.servers.put("ask", "told", ServerInput(spec=spec, enabled=False))
    await app.until("asleep")
    assert await state(app.host, PROGRAM) == "disabled"


async def test_13_one_bad_server_cannot_hurt_the_others(site: Site, tmp_path: Path) -> None:
    """Some never listen, one dies all the time, one floods its log: the good one's visitors notice nothing."""
    good = await site.identity("ask", "good", tmp_path)
    assert (await good.fetch("/")).status == 200
    bad = {
        "deaf1": ["sleep", "1000"],
        "deaf2": ["sleep", "1000"],
        "dies": ["sh", "-c", "exit 1"],
        "floods": ["sh", "-c", "while :; do echo xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; done"],
    }
    for project, command in bad.items():
        await site.put("bad", project, command, directory=tmp_path)
    visits = [asyncio.create_task(site.fetch(site.host("bad", project))) for project in bad for _ in range(20)]
    async with traffic(site.address, good.host, visitors=3, gap=0.02) as seen:
        await asyncio.sleep(2)
        other = await site.identity("ask", "other", tmp_path)
        assert (await other.fetch("/")).status == 200, "and a sleeping one is woken as ever"
    good.check_books(seen)
    assert len(seen.answered) > 20
    await asyncio.gather(*(site.servers.delete("bad", project) for project in bad))
    for visit in visits:
        visit.cancel()
    await asyncio.gather(*visits, return_exceptions=True)


async def test_14_it_survives_restarts_and_outages(site: Site, lair: Lair, tmp_path: Path) -> None:
    """The control plane is killed and started again under traffic: no visitor notices, and the server runs on."""
    app = await site.identity("ask", "survives", tmp_path)
    assert (await app.fetch("/")).status == 200
    async with traffic(site.address, app.host) as seen:
        lair.kill9()
        await asyncio.sleep(0.5)
        await asyncio.to_thread(lair.start)
    app.check_books(seen)
    assert len(app.starts()) == 1
    await app.stop()
    assert (await app.fetch("/")).status == 200


async def test_15_it_wakes_from_the_bookmarked_url(site: Site, tmp_path: Path) -> None:
    """The very URL that somebody kept, path and query and all, is all that it takes; it is the app's from then on."""
    bookmark = "/notes/2024?tab=2&q=a%20b"
    app = await site.identity("ask", "bookmarked", tmp_path)
    for _ in range(2):
        answer = await app.fetch(bookmark, headers=PERSON)
        assert (answer.status, answer.json()["target"]) == (200, bookmark)
        await app.stop()
    assert len(app.starts()) == 2
