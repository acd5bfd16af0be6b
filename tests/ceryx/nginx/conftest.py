"""An engine, apps and a waker for each test; all that was started is stopped."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Protocol

import pytest
from tests.ceryx.nginx.world import Proxy, Server, Waker, app

from sourcelair.ceryx.nginx import render


class Serve(Protocol):
    async def __call__(self, server: Server | None = None, port: int = 0) -> Server: ...


class StartProxy(Protocol):
    async def __call__(self, *, stall: float = 0.0, **settings: Any) -> Proxy: ...


class ChangeLua(Protocol):
    def __call__(self, file: str, before: str, after: str) -> None: ...


@pytest.fixture
def change_lua(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ChangeLua:
    """Change a part of a copy of the Lua code, which is used by engines that start after that."""
    own = tmp_path / "own"
    shutil.copytree(render.HERE / "lua", own / "lua")
    shutil.copytree(render.HERE / "templates", own / "templates")
    monkeypatch.setattr(render, "HERE", own)

    def change(file: str, before: str, after: str) -> None:
        path = own / "lua" / "lair" / file
        text = path.read_text()
        assert text.count(before) == 1
        path.write_text(text.replace(before, after))

    return change


@pytest.fixture
async def start_proxy(tmp_path: Path) -> AsyncIterator[StartProxy]:
    """Start an engine with settings of the test's own."""
    async with AsyncExitStack() as stack:

        async def start(*, stall: float = 0.0, **settings: Any) -> Proxy:
            proxy = Proxy(tmp_path / "data", stall=stall, **settings)
            stack.push_async_callback(proxy.stop)
            await proxy.start()
            return proxy

        yield start


@pytest.fixture
async def waker() -> AsyncIterator[Waker]:
    server = Waker()
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def proxy(start_proxy: StartProxy, waker: Waker) -> AsyncIterator[Proxy]:
    """An engine with short times, an empty table, and a waker that has not answered yet."""
    found = await start_proxy(patience=0.15, wake_timeout=1.5)
    await found.open(waker)
    yield found
    assert found.errors() == []


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Start servers."""
    async with AsyncExitStack() as stack:

        async def start(server: Server | None = None, port: int = 0) -> Server:
            server = server or app()
            await server.start(port)
            stack.push_async_callback(server.stop)
            return server

        yield start
