"""An engine, apps and a waker for each test; all that was started is stopped."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Protocol

import pytest
from tests.ceryx.nginx.world import Proxy, Server, Waker, app


class Serve(Protocol):
    async def __call__(self, server: Server | None = None, port: int = 0) -> Server: ...


class StartProxy(Protocol):
    async def __call__(self, *, stall: float = 0.0, **settings: Any) -> Proxy: ...


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
