"""What a visitor of a server that is not awake gets: held, shown a page, told the truth, or left asleep."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.system.lair import running_lair
from tests.system.site import App, Site, site_of
from tests.system.visitors import Visitor

from sourcelair.client.servers import ServerInput, Spec

pytestmark = [pytest.mark.anyio, pytest.mark.system]

BROWSER = {"Accept": "text/html,*/*;q=0.8", "Sec-Fetch-Mode": "navigate", "User-Agent": "Mozilla/5.0"}


@pytest.fixture
async def own(tmp_path: Path) -> AsyncIterator[Site]:
    """An installation of the test's own, where two servers may be starting at once."""
    with running_lair(tmp_path / "own", {"LAIR_MAX_STARTING": "2"}) as lair:
        async with site_of(lair) as site:
            yield site


async def test_a_fast_server_answers_as_if_it_had_been_awake(site: Site, tmp_path: Path) -> None:
    """Within `patience`, a browser sees no page at all."""
    app = await site.identity("browser", "fast", tmp_path)
    answer = await app.fetch("/", headers=BROWSER)
    assert (answer.status, answer.headers["server-name"]) == (200, app.name)


async def test_a_slow_server_shows_a_page_that_goes_on_by_itself(site: Site, tmp_path: Path) -> None:
    """The page at once, its progress pushed; everything else stays held meanwhile and gets the app's own answer."""
    app = await site.identity("browser", "slow", tmp_path, delay=2.0)
    held = [
        asyncio.create_task(app.fetch("/data", headers={"X-Request": "api"})),
        asyncio.create_task(
            app.fetch("/form", method="POST", body=b"x" * 5000, headers={**BROWSER, "X-Request": "form"})
        ),
        asyncio.create_task(app.fetch("/a.css", headers={"Accept": "text/css,*/*;q=0.1", "Sec-Fetch-Mode": "no-cors"})),
    ]
    page = await app.fetch("/deep/path?and=query", headers=BROWSER)
    assert page.status == 503
    assert page.headers["lair-state"] == "starting"
    assert page.headers["cache-control"] == "no-store"
    assert int(page.headers["retry-after"]) >= 1
    assert "x-frame-options" not in page.headers, "online IDEs embed the app"
    assert page.headers["access-control-allow-origin"] == "*"
    assert b"Waking up" in page.body
    assert len(page.body) < 15_000

    visitor = Visitor(site.address, app.host)
    await visitor.send("GET", "/.hemera/events", headers={"Accept": "text/event-stream"})
    head = await visitor.answer(head_only=True)
    assert (head.status, head.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    reader = visitor._streams[0] if visitor._streams else None
    assert reader is not None
    async with asyncio.timeout(20):
        stages = []
        while True:
            line = await reader.readline()
            assert line, "the stream ended before the server was ready"
            if line.startswith(b"data: "):
                stages.append(json.loads(line[6:]))
                if stages[-1]["go"]:
                    break
    await visitor.close()
    assert stages[-1]["state"] == "awake"
    assert {answer.status for answer in await asyncio.gather(*held)} == {200}
    assert (await app.fetch("/deep/path?and=query", headers=BROWSER)).status == 200
    assert len(app.starts()) == 1
    assert app.requests() == {"api": 1, "form": 1}


async def test_a_failed_start_shows_why(site: Site, tmp_path: Path) -> None:
    """A person gets a page with the reason and the last log lines, a program problem+json; markup stays text."""
    script = "echo '<script>alert(1)</script> port already taken' >&2; exit 7"
    spec = Spec(command=["sh", "-c", script], directory=str(tmp_path))
    await site.servers.put("browser", "fails", ServerInput(spec=spec))
    host = site.host("browser", "fails")
    page = await site.fetch(host, "/", headers=BROWSER)
    assert (page.status, page.headers["lair-state"]) == (503, "failed")
    assert b"exited with code 7" in page.body
    assert b"port already taken" in page.body
    assert b"<script>alert" not in page.body
    answer = await site.fetch(host, "/api")
    assert (answer.status, answer.headers["lair-state"]) == (503, "failed")
    assert answer.headers["content-type"] == "application/problem+json"
    assert "code 7" in answer.json()["detail"]
    assert any("port already taken" in line for line in answer.json()["log"])


async def test_a_disabled_server_wakes_for_nobody(site: Site, tmp_path: Path) -> None:
    app = await site.identity("browser", "disabled", tmp_path)
    server = await app.server()
    await site.servers.put("browser", "disabled", ServerInput(spec=server.spec, enabled=False))
    page = await app.fetch("/", headers=BROWSER)
    assert (page.status, page.headers["lair-state"]) == (503, "disabled")
    assert b"switched off" in page.body
    assert (await app.fetch("/")).headers["lair-state"] == "disabled"
    assert app.starts() == []


@pytest.mark.parametrize(
    ("path", "agent"),
    [
        ("/favicon.ico", "Mozilla/5.0"),
        ("/robots.txt", "Mozilla/5.0"),
        ("/", "Googlebot/2.1 (+http://www.google.com/bot.html)"),
        ("/", "UptimeRobot/2.0"),
        ("/", "Prometheus/2.45.0"),
        ("/", "kube-probe/1.28"),
    ],
)
async def test_robots_and_their_paths_never_wake(site: Site, tmp_path: Path, path: str, agent: str) -> None:
    """They are told that it sleeps, at once; what they ask does not count as activity either."""
    app = await site.identity("robot", "visited", tmp_path)
    try:
        answer = await app.fetch(path, headers={"User-Agent": agent})
        assert (answer.status, answer.headers["lair-state"]) == (503, "asleep")
        assert "retry-after" in answer.headers
        assert (await app.server()).state == "asleep"
        assert app.starts() == []
    finally:
        await site.servers.delete("robot", "visited")


@pytest.mark.parametrize("agent", [{}, {"User-Agent": ""}, {"User-Agent": "my-script"}, {"User-Agent": "CUBOT_X18"}])
async def test_an_empty_or_unknown_user_agent_is_a_visitor(site: Site, tmp_path: Path, agent: dict[str, str]) -> None:
    app = await site.identity("robot", "unknown", tmp_path)
    try:
        assert (await app.fetch("/", headers=agent)).status == 200
    finally:
        await site.servers.delete("robot", "unknown")


async def test_two_thousand_are_held_for_one_host(site: Site, tmp_path: Path) -> None:
    """All are answered, by one start."""
    app = await site.identity("herd", "large", tmp_path, delay=1.5)
    answers = await asyncio.gather(*(app.fetch(f"/{number}") for number in range(2000)))
    assert {answer.status for answer in answers} == {200}
    assert len(app.starts()) == 1


async def test_starts_wait_in_a_queue(own: Site, tmp_path: Path) -> None:
    """No more than two at once; every visitor is answered."""
    apps = [await own.identity(f"owner{number % 2}", f"queued{number}", tmp_path, delay=0.4) for number in range(7)]
    visits = [asyncio.create_task(app.fetch("/")) for app in apps]
    most = 0
    while not all(visit.done() for visit in visits):
        states = [server.state for server in await own.servers.list()]  # of one moment
        most = max(most, states.count("starting"))
        await asyncio.sleep(0.02)
    assert [visit.result().status for visit in visits] == [200] * 7
    assert most == 2
    assert all(len(app.starts()) == 1 for app in apps)


async def _asleep_app(site: Site, directory: Path) -> App:
    app = await site.identity("outage", "asleep", directory)
    await app.fetch("/")
    await app.stop()
    return app


async def test_while_hemera_is_down(own: Site, tmp_path: Path) -> None:
    """A person gets the page built into NGINX, which comes again by itself; all else is held, and answered later."""
    app = await _asleep_app(own, tmp_path)
    own.lair.kill9()
    page = await app.fetch("/", headers=BROWSER)
    assert page.status == 503
    assert page.headers["lair-state"] == "waker-unreachable"
    assert b"http-equiv" in page.body and b"refresh" in page.body.lower()
    assert b"nginx" not in page.body.lower()
    held = asyncio.create_task(app.fetch("/", method="POST", body=b"kept", headers={"X-Request": "kept"}))
    await asyncio.sleep(0.3)
    assert not held.done()
    await asyncio.to_thread(own.lair.start)
    assert (await held).status == 200
    assert app.requests()["kept"] == 1
    assert len(app.starts()) == 2


async def test_an_idle_server_sleeps_and_a_visited_one_does_not(site: Site, tmp_path: Path) -> None:
    app = await site.identity("idle", "visited", tmp_path, idle_timeout=1.5)
    for _ in range(12):
        assert (await app.fetch("/")).status == 200
        await asyncio.sleep(0.3)
    assert len(app.starts()) == 1
    await app.until("asleep")
    assert (await app.server()).cause == "idle"
    assert (await app.fetch("/")).status == 200


async def test_robots_do_not_keep_a_server_awake(site: Site, tmp_path: Path) -> None:
    """A monitor that asks all the time is answered while somebody else keeps it awake, and is no visitor itself."""
    app = await site.identity("idle", "monitored", tmp_path, idle_timeout=1.0)
    assert (await app.fetch("/")).status == 200
    statuses = []

    async def monitor() -> None:
        while True:
            statuses.append((await app.fetch("/", headers={"User-Agent": "UptimeRobot/2.0"})).status)
            await asyncio.sleep(0.1)

    async with asyncio.timeout(30):
        monitoring = asyncio.create_task(monitor())
        await app.until("asleep")
    monitoring.cancel()
    assert statuses.count(200) >= 5
    assert (await app.server()).cause == "idle"
    assert len(app.starts()) == 1


async def test_an_always_on_server_runs_before_anybody_comes(site: Site, tmp_path: Path) -> None:
    """And again by itself after it was killed."""
    app = await site.identity("always", "running", tmp_path, idle_timeout=0.5, always_on=True)
    await app.until("awake")
    first = app.starts()
    assert len(first) == 1
    await app.stop()
    assert len(app.starts()) == 1, "an explicit stop holds until somebody comes"
    assert (await app.fetch("/")).status == 200
    await app.fetch("/die")
    await app.until("awake")
    await site.servers.put(
        "always", "running", ServerInput(spec=Spec(**(await app.server()).spec.model_dump()), enabled=False)
    )
