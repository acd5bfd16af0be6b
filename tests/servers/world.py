"""The SourceLair API over a real store and a real Ceryx in this process, with instances that a script makes."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI, Request
from tests.ports import claim_ports

from sourcelair.auth import Identity
from sourcelair.ceryx.http import create_router as create_ceryx_router
from sourcelair.ceryx.service import CeryxService
from sourcelair.client.ceryx import CeryxClient
from sourcelair.client.servers import Server, ServerInput, ServersClient, Spec
from sourcelair.errors import LairError, Unauthorized, install_error_handlers
from sourcelair.servers.drivers.mock import MockDriver, MockWorld, Script
from sourcelair.servers.http import create_router
from sourcelair.servers.memory import Memory
from sourcelair.servers.service import ServersService
from sourcelair.settings import Settings
from sourcelair.store.sqlite import open_sqlite

WAKER = "http://127.0.0.1:9/waker"
NODE = "node"


def authenticate(request: Request) -> Identity:
    """Take the token as its own kind, `owner-NAME` as that owner's, `instance-ID` as that instance's.

    How tokens are kept is tested elsewhere.
    """
    token = request.headers.get("authorization", "").removeprefix("Bearer ")
    kind, _, owner = token.partition("-")
    if kind not in {"admin", "owner", "read", "service", "waker", "instance"}:
        raise Unauthorized("A token is required.")
    if kind == "instance":
        return Identity(kind="instance", token_id=owner)
    return Identity(kind=kind, owner=owner or None)  # type: ignore[arg-type]


class World:
    """What outlives the API: the directory, Ceryx, the instances. `up` is one life of the API."""

    def __init__(self, directory: Path, ceryx: FastAPI, **settings: Any) -> None:
        self.directory = directory
        self.instances = MockWorld()
        self.scripts: dict[tuple[str, str], Script] = {}
        self.driver = MockDriver(self.instances, "mine")
        self.ceryx_app = ceryx
        base, self._claim = claim_ports()
        values = {
            "data_dir": directory, "port_range": f"{base + 10}-{base + 29}", "port_cooldown": 0.0,
            "idle_drain_timeout": 0.3, "stop_grace": 0.2, "drain_timeout": 0.3, **settings,
        }  # fmt: skip
        self.settings = Settings(**values)
        self.clock_set_by = 0.0
        """Seconds by which the wall clock was set since the world began."""
        self.memory: Memory | None = None
        """What the API reads as this machine's memory."""
        self.ceryx = self.ceryx_client()

    def now(self) -> float:
        """What the wall clock shows."""
        return time.time() + self.clock_set_by

    def close(self) -> None:
        """Give the ports to others."""
        os.close(self._claim)

    def ceryx_client(self) -> CeryxClient:
        return CeryxClient("http://ceryx.test", "service", transport=httpx.ASGITransport(self.ceryx_app))

    def script(self, owner: str, project: str, script: Script) -> None:
        self.scripts[owner, project] = script
        self.driver.script(owner, project, script)

    @asynccontextmanager
    async def up(self) -> AsyncIterator[Life]:
        self.driver = MockDriver(self.instances, "mine")
        for (owner, project), script in self.scripts.items():
            self.driver.script(owner, project, script)
        store = await open_sqlite(self.directory / "servers.db")
        client = self.ceryx_client()
        service = ServersService(
            store,
            self.settings,
            {"mock": self.driver},
            client,
            waker=WAKER,
            clock=self.now,
            jitter=lambda: 0.0,
            memory=lambda: self.memory,
        )
        try:
            async with service:
                life = Life(self, service)
                try:
                    yield life
                finally:
                    await life.close()
        finally:
            await client.close()
            await store.close()


class Life:
    """One life of the API, and clients for it."""

    def __init__(self, world: World, service: ServersService) -> None:
        self.world = world
        self.service = service
        self.app = FastAPI()
        install_error_handlers(self.app)
        self.app.include_router(create_router(service, authenticate))
        self._clients: list[ServersClient] = []
        self.client = self.as_("service")

    def as_(self, token: str) -> ServersClient:
        client = ServersClient("http://servers.test", token, transport=httpx.ASGITransport(self.app))
        self._clients.append(client)
        return client

    async def close(self) -> None:
        for client in self._clients:
            await client.close()

    async def create(self, owner: str = "demo", project: str = "blog", **changes: Any) -> Server:
        script = changes.pop("script", Script(serves=True))
        self.world.script(owner, project, script)
        body = ServerInput(spec=Spec(driver="mock", **changes.pop("spec", {})), **changes)
        return await self.client.put(owner, project, body)

    async def until(self, state: str, owner: str = "demo", project: str = "blog") -> Server:
        """Wait until the server is in that state."""
        worker = self.service.worker(owner, project)
        while worker.record.state != state:
            await worker.change()
        return worker.show()


@asynccontextmanager
async def a_world(directory: Path, *, node_lease: float = 10.0, **settings: Any) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        store = await open_sqlite(directory / "ceryx.db")
        stack.push_async_callback(store.close)
        plain = Settings(data_dir=directory, served_wait=0.0, node_lease=node_lease)
        service = await stack.enter_async_context(CeryxService(store, plain))
        app = FastAPI()
        install_error_handlers(app)
        app.include_router(create_ceryx_router(service, authenticate))
        world = World(directory, app, **settings)
        stack.callback(world.close)
        stack.push_async_callback(world.instances.close)
        stack.push_async_callback(world.ceryx.close)
        yield world


async def error_of(call: Any) -> LairError:
    """Return the error that a call ends with."""
    try:
        await call
    except LairError as error:
        return error
    raise AssertionError("no error")
