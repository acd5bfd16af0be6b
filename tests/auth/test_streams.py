"""A stream is worth as much as its token: it ends when that is revoked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path

import httpx
import pytest
from fastapi import Depends, FastAPI, Response

from sourcelair.auth import Identity, TokenRegistry
from sourcelair.auth.http import authenticator, dependency
from sourcelair.errors import Unauthorized, install_error_handlers
from sourcelair.store.sqlite import open_sqlite
from sourcelair.streams import EventStream, Stream

pytestmark = pytest.mark.anyio


class Streams:
    """An API whose every answer goes on until something ends it."""

    def __init__(self, registry: TokenRegistry) -> None:
        self.registry = registry
        self.open = 0
        self.changed = asyncio.Event()
        app = FastAPI()
        install_error_handlers(app)
        who = Depends(dependency(authenticator(registry)))

        async def forever() -> AsyncGenerator[bytes, None]:
            yield b"first\n\n"
            self.open += 1
            self.changed.set()
            await asyncio.Event().wait()

        async def events(_: Identity = who) -> Response:
            return EventStream(forever(), asyncio.Event())

        async def logs(_: Identity = who) -> Response:
            return Stream(forever(), asyncio.Event())

        app.add_api_route("/events", events, response_class=Response)
        app.add_api_route("/logs", logs, response_class=Response)
        self.client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")

    async def ask(self, path: str, token: str) -> asyncio.Task[httpx.Response]:
        """Open a stream, and return once it stands."""
        before = self.open
        task = asyncio.ensure_future(self.client.get(path, headers={"Authorization": f"Bearer {token}"}))
        while self.open == before:
            self.changed.clear()
            await self.changed.wait()
        return task


@pytest.fixture
async def streams(tmp_path: Path) -> AsyncIterator[Streams]:
    store = await open_sqlite(tmp_path / "auth.db")
    registry = TokenRegistry(store)
    await registry.load()
    streams = Streams(registry)
    yield streams
    await streams.client.aclose()
    await store.close()


@pytest.mark.parametrize("path", ["/events", "/logs"])
async def test_streams_of_a_revoked_token_end_at_once(streams: Streams, path: str) -> None:
    """All of that token's, and no other's; who comes again is refused."""
    token, record = await streams.registry.create("owner", owner="demo")
    other, _ = await streams.registry.create("owner", owner="demo")
    theirs = [await streams.ask(path, token) for _ in range(2)]
    another = await streams.ask(path, other)
    await streams.registry.revoke(record.id)
    async with asyncio.timeout(5):
        answers = await asyncio.gather(*theirs)
    assert {answer.status_code for answer in answers} == {200}
    assert all("first" in answer.text for answer in answers)
    assert not another.done()
    assert (await streams.client.get(path, headers={"Authorization": f"Bearer {token}"})).status_code == 401
    another.cancel()
    await asyncio.wait([another])


async def test_a_token_that_was_revoked_opens_nothing(streams: Streams) -> None:
    token, record = await streams.registry.create("admin")
    await streams.registry.revoke(record.id)
    with pytest.raises(Unauthorized):
        streams.registry.identify(f"Bearer {token}")
