"""Ceryx over a real store: in-process for requests and answers, behind a real HTTP server for streams."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
import uvicorn
from fastapi import FastAPI, Request

from sourcelair.auth import Identity
from sourcelair.auth.tokens import Kind
from sourcelair.ceryx.http import create_router
from sourcelair.ceryx.service import CeryxService
from sourcelair.client.ceryx import CeryxClient
from sourcelair.errors import Unauthorized, install_error_handlers
from sourcelair.settings import Settings
from sourcelair.store.base import Store
from sourcelair.store.sqlite import open_sqlite

KINDS: dict[str, Kind] = {"admin": "admin", "read": "read", "service": "service", "waker": "waker", "owner": "owner"}


def authenticate(request: Request) -> Identity:
    """Take the token as its own kind: who may do what is tested here, not how tokens are kept."""
    kind = KINDS.get(request.headers.get("authorization", "").removeprefix("Bearer "))
    if kind is None:
        raise Unauthorized("A token is required.")
    return Identity(kind=kind, owner="demo" if kind == "owner" else None)


@dataclass
class Clock:
    """A clock that moves when a test says so."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Ceryx:
    """A service, its app, and clients for it."""

    service: CeryxService
    app: FastAPI
    store: Store
    clock: Clock
    url: str = "http://ceryx.test"
    opened: list[CeryxClient] = field(default_factory=list)

    def client(self, token: str | None = "service") -> CeryxClient:
        transport = httpx.ASGITransport(self.app) if self.url == "http://ceryx.test" else None
        client = CeryxClient(self.url, token, transport=transport)
        self.opened.append(client)
        return client


def make_settings(tmp_path: Path, **changes: object) -> Settings:
    values = {"data_dir": tmp_path, "served_wait": 0.0, "node_lease": 10.0, **changes}
    return Settings(**values)


@asynccontextmanager
async def running(tmp_path: Path, store: Store | None = None, **changes: object) -> AsyncIterator[Ceryx]:
    """A Ceryx in this process, on SQLite where it is given no other store."""
    store = store or await open_sqlite(tmp_path / "ceryx.db")
    clock = Clock()
    try:
        async with CeryxService(store, make_settings(tmp_path, **changes), clock) as service:
            app = FastAPI()
            install_error_handlers(app)
            app.include_router(create_router(service, authenticate))
            ceryx = Ceryx(service, app, store, clock)
            try:
                yield ceryx
            finally:
                for client in ceryx.opened:
                    await client.close()
    finally:
        await store.close()


@asynccontextmanager
async def listening(ceryx: Ceryx, port: int = 0) -> AsyncIterator[str]:
    """Serve a Ceryx on a free port; its streams end before the server does."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", port))
    server = uvicorn.Server(uvicorn.Config(ceryx.app, log_config=None, lifespan="off", timeout_graceful_shutdown=2))
    task = asyncio.create_task(server.serve(sockets=[sock]))
    previous, ceryx.url = ceryx.url, f"http://127.0.0.1:{sock.getsockname()[1]}"
    while not server.started:
        await asyncio.sleep(0.001)
    try:
        yield ceryx.url
    finally:
        ceryx.service.close_streams()
        for client in ceryx.opened:
            await client.close()
        server.should_exit = True
        await task
        sock.close()
        ceryx.url = previous


@pytest.fixture
async def ceryx(tmp_path: Path) -> AsyncIterator[Ceryx]:
    async with running(tmp_path) as ceryx:
        yield ceryx


@pytest.fixture
async def served(ceryx: Ceryx) -> AsyncIterator[Ceryx]:
    """A Ceryx behind a real HTTP server."""
    async with listening(ceryx):
        yield ceryx


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Ceryx]:
    """A Ceryx behind a real HTTP server, whose writes wait until the nodes serve them."""
    async with running(tmp_path, served_wait=5.0) as ceryx, listening(ceryx):
        yield ceryx
