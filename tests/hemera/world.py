"""Hemera beside a real SourceLair API whose instances a script makes: what its tests share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI
from tests.servers.world import Life, a_world, authenticate

from sourcelair.client.servers import ServersClient
from sourcelair.errors import install_error_handlers
from sourcelair.hemera.http import create_router
from sourcelair.hemera.service import HemeraService

HOST = "blog--demo.localhost"


class Hemera:
    """Hemera as a proxy node sees it, and the API behind it."""

    def __init__(self, life: Life, service: HemeraService) -> None:
        self.life = life
        self.service = service
        app = FastAPI()
        install_error_handlers(app)
        app.include_router(create_router(service, authenticate))
        self.http = httpx.AsyncClient(
            base_url="http://hemera.test",
            transport=httpx.ASGITransport(app),
            headers={"Authorization": "Bearer waker"},
            timeout=30,
        )

    async def wake(self, host: str = HOST, **changes: object) -> httpx.Response:
        return await self.http.post("/waker/wake", json={"source": host, "node": "n1", **changes})

    async def page(self, host: str = HOST, **params: object) -> httpx.Response:
        return await self.http.get("/waker/page", params={"source": host, "path": "/", **params})

    async def look(self) -> None:
        """Take in how all servers are: no stream of events comes through here."""
        self.service.directory._replace(await self.life.client.list())

    async def retry(self, to: str) -> httpx.Response:
        return await self.http.post("/waker/visitor/retry", params={"to": to}, headers={"Lair-Source": HOST})


@asynccontextmanager
async def a_hemera(directory: Path, **settings: Any) -> AsyncIterator[Hemera]:
    """Hemera, on a world of its own."""
    async with a_world(directory, **settings) as world, world.up() as life:
        # Streams don't end in an ASGI transport: the list is asked for where a host is not known.
        transport = httpx.ASGITransport(life.app)
        async with ServersClient("http://servers.test", "service", transport=transport) as servers:
            service = HemeraService(world.settings, servers, world.ceryx)
            async with service:
                hemera = Hemera(life, service)
                yield hemera
                await hemera.http.aclose()
