"""Servers that are too fast, too slow, dead, or not well: what their visitors get, and how often they are started."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.system.lair import running_lair
from tests.system.site import App, Site, site_of
from tests.system.tiny import built

from sourcelair.client.servers import Readiness

pytestmark = [pytest.mark.anyio, pytest.mark.system]

SLOW_START = float(os.environ.get("SLOW_START", "3"))
"""Seconds that slow servers take: with `SLOW_START=30` in the environment this tries the real thing."""

BROWSER = {"Accept": "text/html,*/*;q=0.8", "Sec-Fetch-Mode": "navigate", "User-Agent": "Mozilla/5.0"}
MOODY = Path(__file__).parent / "apps" / "moody.py"


@pytest.fixture
async def hasty(tmp_path: Path) -> AsyncIterator[Site]:
    """An installation of the test's own that waits a second for a server's answers and starts."""
    with running_lair(tmp_path / "hasty", {"LAIR_READ_TIMEOUT": "1", "LAIR_START_TIMEOUT": "2"}) as lair:
        async with site_of(lair) as site:
            yield site


async def moody(
    site: Site,
    directory: Path,
    mood: str,
    seconds: float,
    project: str | None = None,
    readiness: Readiness | None = None,
) -> App:
    """Create a server that runs `apps/moody.py`."""
    app = App(site, "moody", project or mood, directory / mood)
    app.books.mkdir()
    command = [sys.executable, "-S", "-E", str(MOODY), "{port}", str(app.books), mood, str(seconds)]
    await site.put(app.owner, app.project, command, directory=app.books, readiness=readiness)
    return app


async def posted(app: App, number: str) -> tuple[int, bytes]:
    """Send a numbered POST; return the status and the body of its answer."""
    answer = await app.fetch("/", method="POST", body=b"x" * 5000, headers={"X-Request": number})
    return answer.status, answer.body


async def test_a_server_that_starts_in_a_millisecond(site: Site, tmp_path: Path) -> None:
    """Awake before anybody could have waited: fifty at once, then cold again and again, each time one start."""
    await site.put("faulty", "tiny", [str(built(tmp_path)), "{port}"], directory=tmp_path)
    host = site.host("faulty", "tiny")
    answers = await asyncio.gather(*(site.fetch(host, headers=BROWSER) for _ in range(50)))
    assert {(answer.status, answer.body) for answer in answers} == {(200, b"tiny")}
    seen = set()
    for _ in range(10):
        await site.servers.stop("faulty", "tiny")
        assert (await site.fetch(host, method="POST", body=b"x")).body == b"tiny"
        server = await site.until("faulty", "tiny", "awake")
        assert server.instance is not None
        seen.add(server.instance.id)
    assert len(seen) == 10


async def test_a_server_that_takes_long_to_start(site: Site, tmp_path: Path) -> None:
    """A person sees the page soon; what can't be shown a page is held all the time, and answered by the one start."""
    app = await site.identity("faulty", "slow", tmp_path, delay=SLOW_START)
    held = asyncio.create_task(posted(app, "held"))
    await app.until("starting")
    began = time.monotonic()
    page = await app.fetch("/", headers=BROWSER)
    assert (page.status, page.headers["lair-state"]) == (503, "starting")
    assert time.monotonic() - began < SLOW_START
    assert (await held)[0] == 200
    assert app.requests() == {"held": 1}
    assert len(app.starts()) == 1


async def test_a_server_that_listens_and_says_nothing_for_long(site: Site, tmp_path: Path) -> None:
    """It accepts connections: that is not ready yet. Nobody is let in before it answers."""
    app = await moody(site, tmp_path, "mute", SLOW_START / 2)
    held = asyncio.create_task(posted(app, "held"))
    assert (await app.fetch("/", headers=BROWSER)).headers["lair-state"] == "starting"
    assert await held == (200, b"well\n")
    assert app.requests() == {"held": 1}
    assert len(app.starts()) == 1


async def test_a_server_that_never_answers(hasty: Site, tmp_path: Path) -> None:
    """The start fails in its time, its visitors are told so, and nothing of it is left."""
    app = await moody(hasty, tmp_path, "mute", 1000)
    status, body = await posted(app, "never")
    assert status == 503
    assert b"failed" in body
    assert app.requests() == {}
    assert len(app.starts()) == 1
    assert hasty.lair.instances() == []


async def test_a_server_that_is_ready_and_then_dead(site: Site, tmp_path: Path) -> None:
    """It sleeps with the reason; the next visitor wakes it, and is answered."""
    app = await moody(site, tmp_path, "dies", 0.7)
    assert await posted(app, "first") == (200, b"well\n")
    server = await app.until("asleep")
    assert server.last_exit is not None
    assert server.last_exit.code == 3
    assert "3" in str(server.cause)
    assert await posted(app, "second") == (200, b"well\n")
    assert app.requests() == {"first": 1, "second": 1}
    assert len(app.starts()) == 2


async def test_a_server_that_flaps(site: Site, tmp_path: Path) -> None:
    """Visitors come all the time, and it dies soon after each start: it is held back longer each time.

    Nobody waits for nothing: each visitor is answered, or told that it fails and when to come again. No request
    arrives twice.
    """
    app = await moody(site, tmp_path, "dies", 0.3, "flaps")
    outcomes: list[int] = []
    until = time.monotonic() + 6
    while time.monotonic() < until:
        answer = await app.fetch("/", headers={"X-Request": str(len(outcomes))})
        outcomes.append(answer.status)
        if answer.status == 503:
            assert answer.headers["lair-state"] == "failed"
            assert int(answer.headers["retry-after"]) >= 1
        await asyncio.sleep(0.05)
    assert set(outcomes) <= {200, 502, 503}, outcomes
    assert outcomes.count(200) >= 1
    assert outcomes.count(503) >= 1
    assert max(app.requests().values()) == 1
    assert len(app.starts()) <= 6, "starts are held back: six seconds have room for fifteen"
    await app.stop()


async def test_a_server_that_answers_500_at_first_is_ready(site: Site, tmp_path: Path) -> None:
    """500 is the app's own word: visitors get it, as they would without us."""
    app = await moody(site, tmp_path, "errors", 1000)
    assert await posted(app, "first") == (500, b"not yet\n")
    assert app.requests() == {"first": 1}


async def test_a_server_that_answers_500_at_first_is_waited_for_where_that_is_wanted(
    site: Site, tmp_path: Path
) -> None:
    """With `readiness.status` of 200 alone, nobody is let in before that."""
    app = await moody(site, tmp_path, "errors", 1.5, "well-later", Readiness(status=[200]))
    assert await posted(app, "first") == (200, b"well\n")
    assert app.requests() == {"first": 1}
    assert len(app.starts()) == 1


async def test_an_answer_that_takes_longer_than_the_read_timeout(hasty: Site, tmp_path: Path) -> None:
    """One 504, GET or POST: never a second request, never a second instance."""
    app = await hasty.identity("faulty", "late", tmp_path)
    assert (await app.fetch("/")).status == 200
    for method in ("GET", "POST"):
        body = b"x" if method == "POST" else None
        answer = await app.fetch("/slow?3", method=method, body=body, headers={"X-Request": method})
        assert (answer.status, answer.headers["lair-state"]) == (504, "timeout"), answer
    assert (await app.fetch("/")).status == 200
    assert app.requests() == {"GET": 1, "POST": 1}
    assert len(app.starts()) == 1
