"""Commands that can't work: a visitor and an operator are told why, and nothing is left running."""

from __future__ import annotations

import asyncio
import socket
import sys
from pathlib import Path

import pytest
from tests.system.site import IDENTITY, Site

from sourcelair.client.policy import SleepPolicy
from sourcelair.client.servers import Readiness
from sourcelair.errors import LairError

pytestmark = [pytest.mark.anyio, pytest.mark.system]

QUICK = Readiness(start_timeout=1.5)


async def refusal(site: Site, owner: str, project: str) -> str:
    """Visit as an API client would; return what the 503 says."""
    answer = await site.fetch(site.host(owner, project), headers={"Accept": "application/json"})
    assert answer.status == 503, answer
    assert answer.headers["content-type"].startswith("application/problem+json")
    assert "retry-after" in answer.headers
    detail = str(answer.json()["detail"])
    assert "Traceback" not in detail
    return detail


async def test_a_program_that_is_missing(site: Site, tmp_path: Path) -> None:
    """The visit says which program is missing."""
    await site.put("bad", "missing", ["no-such-program-anywhere", "{port}"], directory=tmp_path)
    assert "no-such-program-anywhere" in await refusal(site, "bad", "missing")


async def test_a_program_that_exits_at_once(site: Site, tmp_path: Path) -> None:
    """The visit says how it ended, and the last lines of its log are there for the operator."""
    command = [sys.executable, "-c", "import sys; print('cannot find my database'); sys.exit(7)"]
    await site.put("bad", "exits", command, directory=tmp_path)
    assert "7" in await refusal(site, "bad", "exits")
    server = await site.until("bad", "exits", "failed", "asleep")
    assert server.failure
    assert any("cannot find my database" in line for line in server.failure_log)


async def test_a_program_that_never_listens(site: Site, tmp_path: Path) -> None:
    """After its start timeout it is stopped, and the visit says that it never listened."""
    await site.put("bad", "silent", ["sleep", "600"], directory=tmp_path, readiness=QUICK)
    assert "listen" in (await refusal(site, "bad", "silent")).lower()
    server = await site.until("bad", "silent", "failed", "asleep")
    assert server.instance is None


async def test_a_program_that_listens_on_another_port(site: Site, tmp_path: Path) -> None:
    """The message names the port that it took instead of the one that it was given."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"]
    await site.put("bad", "elsewhere", command, directory=tmp_path, readiness=QUICK)
    assert str(port) in await refusal(site, "bad", "elsewhere")


async def test_a_directory_that_is_gone(site: Site, tmp_path: Path) -> None:
    """The message names the directory; once it is back, a visit works."""
    home = tmp_path / "home"
    home.mkdir()
    await site.put("bad", "homeless", [sys.executable, "-m", "http.server", "{port}"], directory=home)
    home.rmdir()
    assert str(home) in await refusal(site, "bad", "homeless")
    home.mkdir()
    async with asyncio.timeout(20):
        while (await site.fetch(site.host("bad", "homeless"))).status != 200:
            await asyncio.sleep(0.2)


@pytest.mark.parametrize(
    ("owner", "project"), [("Demo", "blog"), ("demo", "a"), ("de--mo", "blog"), ("demo", "-blog"), ("demo", "x" * 64)]
)
async def test_names_that_are_not_allowed(site: Site, tmp_path: Path, owner: str, project: str) -> None:
    """Refused before anything is stored, with the rule."""
    with pytest.raises(LairError) as refused:
        await site.put(owner, project, ["true"], directory=tmp_path)
    assert refused.value.status in {404, 422}


async def test_two_creates_at_once(site: Site, tmp_path: Path) -> None:
    """Both may succeed (PUT is idempotent), and there is one server, with one start."""
    books = tmp_path / "books"
    books.mkdir()
    command = [sys.executable, "-S", "-E", str(IDENTITY), "{port}", str(books), "twin"]
    await asyncio.gather(
        *(site.put("twin", "twins", command, directory=books, sleep=SleepPolicy(stop_after=60)) for _ in range(5))
    )
    answers = await asyncio.gather(*(site.fetch(site.host("twin", "twins")) for _ in range(5)))
    assert [answer.status for answer in answers] == [200] * 5
    assert len((books / "starts").read_text().splitlines()) == 1
