"""An API that takes connections and never answers: a person learns it soon, once, and with a reason."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import httpx
import pytest
from tests.cli.conftest import Run

from sourcelair.cli import session
from sourcelair.client.servers import ServersClient


@pytest.fixture
def frozen(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A socket that listens, and nobody behind it; patience is short here."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        monkeypatch.setenv("LAIR_API_LISTEN", f"127.0.0.1:{listening.getsockname()[1]}")
        monkeypatch.setattr(session, "PATIENCE", 0.2)
        yield listening


COMMANDS = [
    ["ls"], ["show", "demo/blog"], ["create", "demo/blog", "--", "true"], ["start", "demo/blog"], ["stop", "demo/blog"],
    ["logs", "demo/blog"], ["logs", "-f", "demo/blog"], ["routes", "list"], ["routes", "set", "a.example", "b.example"],
    ["nodes", "list"], ["token", "list"],
]  # fmt: skip


@pytest.mark.timeout(20)
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_an_api_that_says_nothing_is_given_up(lair: Run, frozen: socket.socket, command: list[str]) -> None:
    """After what patience there is, whatever the call may otherwise need; and it is not asked again."""
    done = lair(*command)
    assert done.code == 5
    assert "does not answer: ReadTimeout" in done.error
    frozen.setblocking(False)
    frozen.accept()[0].close()
    with pytest.raises(BlockingIOError):
        frozen.accept()


@pytest.mark.anyio
async def test_a_wait_is_added_to_the_patience() -> None:
    """A start that may take a minute is not given up before; what merely may take longer is."""
    given: list[float] = []

    async def note(request: httpx.Request) -> httpx.Response:
        given.append(request.extensions["timeout"]["read"])
        return httpx.Response(200, json=[])

    async with ServersClient("http://api", "token", transport=httpx.MockTransport(note), patience=10) as client:
        await client.list()
        await client.delete("demo", "blog", wait=60)
    async with ServersClient("http://api", "token", transport=httpx.MockTransport(note)) as client:
        await client.list()
    assert given == [10, 70, 90]
