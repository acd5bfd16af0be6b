"""From spawned to ready: what counts as an answer, and that no start goes on for ever."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.servers.world import Life, a_world, error_of

from sourcelair.client.servers import Readiness, StartRequest
from sourcelair.errors import InvalidInput, Unavailable
from sourcelair.servers.drivers.base import Found, Listener
from sourcelair.servers.drivers.mock import Script
from sourcelair.servers.readiness import until_answering

pytestmark = pytest.mark.anyio

VISIT = StartRequest(cause="visit")


class App:
    """Answers everything with the same bytes, and keeps what it was asked."""

    def __init__(self) -> None:
        self.answer = b""
        self.asked: list[bytes] = []
        self.port = 0

    async def visit(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(self.answer)
        await writer.drain()
        writer.close()

    async def until_ready(self, readiness: Readiness, said: list[str]) -> None:
        await until_answering(Listener("127.0.0.1", self.port), "blog--demo.localhost", readiness, said.append)


@pytest.fixture
async def app() -> AsyncIterator[App]:
    app = App()
    server = await asyncio.start_server(app.visit, "127.0.0.1", 0)
    app.port = server.sockets[0].getsockname()[1]
    yield app
    server.close()


@pytest.mark.parametrize("location", ["http://[::1", "http://x:99999999/", "/\x01", "http://" + "a" * 70000])
async def test_a_redirect_is_an_answer_wherever_it_leads(app: App, location: str) -> None:
    """Nobody follows it, so nobody reads it."""
    app.answer = f"HTTP/1.1 302 Found\r\nLocation: {location[:60000]}\r\nContent-Length: 0\r\n\r\n".encode()
    said: list[str] = []
    async with asyncio.timeout(5):
        await app.until_ready(Readiness(), said)
    assert said == []
    assert b"\r\nHost: blog--demo.localhost\r\n" in app.asked[0]
    assert b"\r\nAccept: */*\r\n" in app.asked[0]


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 200 OK\r\n\x00bad\r\n\r\n", b"SSH-2.0-OpenSSH_9\r\n", b"", b"HTTP/1.1 20"]
)
async def test_what_is_no_answer_is_not_yet(app: App, answer: bytes) -> None:
    """It is asked again, with words for the user."""
    app.answer = answer
    said: list[str] = []
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await app.until_ready(Readiness(), said)
    assert said and "it did not answer HTTP" in said[-1]


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.0 200\r\n\r\n",
        b"HTTP/1.1 200 OK\nServer: old\n\nhello",
        b"HTTP/1.1 200 OK\r\nX-Folded: a\r\n b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nno chunk",
    ],
)
async def test_the_head_of_an_answer_is_enough(app: App, answer: bytes) -> None:
    """What came before it, what comes after it, and how it is written does not matter."""
    app.answer = answer
    said: list[str] = []
    async with asyncio.timeout(5):
        await app.until_ready(Readiness(), said)
    assert said == []


async def test_a_path_that_can_not_be_asked_for_is_not_yet(app: App) -> None:
    """Records of before may have one."""
    said: list[str] = []
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await app.until_ready(Readiness.model_construct(path="/\x01", status=None, probe_timeout=5.0), said)
    assert said and "it did not answer HTTP" in said[-1]


@pytest.mark.parametrize("path", ["/\x01", "/\x7f", "/é", "/\u200b"])
async def test_a_path_is_printable_ascii(life: Life, path: str) -> None:
    error = await error_of(life.create(spec={"readiness": {"path": path}}))
    assert isinstance(error, InvalidInput) and error.detail.startswith("spec.readiness.path: ")


async def test_one_that_can_not_be_looked_at_fails_in_its_time(life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that nobody foresaw is tried again, and not for ever."""

    async def broken(found: Found, port: int) -> Listener | None:
        raise OSError("no /proc here")

    monkeypatch.setattr(life.world.driver, "listener", broken)
    await life.create(script=Script(serves=True), spec={"readiness": {"start_timeout": 0.05}})
    error = await error_of(life.client.start("demo", "blog", VISIT, wait=5))
    assert isinstance(error, Unavailable) and "could not be looked at" in error.detail
    assert await life.world.driver.find_all() == []


@pytest.mark.parametrize(
    ("advertised", "local", "awake"),
    [
        (None, True, True),
        ("localhost", True, True),
        ("::1", True, True),
        ("10.0.0.4", True, False),
        ("machine-4", True, False),
        ("10.0.0.4", False, True),
    ],
)
async def test_one_that_visitors_can_not_reach_fails_at_once(
    tmp_path: Path, advertised: str | None, local: bool, awake: bool
) -> None:
    """Its target would be an address where it does not listen: a visit would find it refused, again and again."""
    async with a_world(tmp_path, advertise_address=advertised) as world, world.up() as life:
        await life.create(script=Script(serves=True, local=local))
        start = life.client.start("demo", "blog", VISIT, wait=5)
        if awake:
            assert (await start).state == "awake"  # its target is one that Ceryx takes
        else:
            error = await error_of(start)
            assert f"it listens on 127.0.0.1 only, and is visited at {advertised}" in error.detail
            assert await life.world.driver.find_all() == []


async def test_that_it_listens_and_does_not_answer_is_told(life: Life) -> None:
    """Its visitors see how far it is; once it is awake, nothing of that is left."""
    await life.create(script=Script(serves=True, status=503))
    await life.client.start("demo", "blog", StartRequest(), wait=0)
    worker = life.service.worker("demo", "blog")
    while not ((server := worker.show()).instance and server.instance.listening):
        await worker.change()
    assert server.state == "starting"
    (running,) = life.world.instances.instances.values()
    assert running.site is not None
    running.site._head = running.site._head.replace(b"503 Service Unavailable", b"200 OK")
    awake = await life.until("awake")
    assert awake.instance
    assert not awake.instance.listening
