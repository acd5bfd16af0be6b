"""One process of the system: starts its part in order, waits for its turn, for the word to stop, and ends in order."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from typing import Any

from fastapi import APIRouter, Request

from sourcelair.auth import Identity
from sourcelair.auth.http import create_router as create_tokens_router
from sourcelair.ceryx.http import create_router as create_ceryx_router
from sourcelair.cli.system.addresses import advertised, bind
from sourcelair.cli.system.app import create_app, gate, monitoring_router, serve
from sourcelair.cli.system.assembly import Access, Clients, Services, make_services, open_access, open_clients
from sourcelair.cli.system.directory import DataDirectory
from sourcelair.cli.system.forwarding import Forward
from sourcelair.cli.system.homes import check_home
from sourcelair.cli.system.http_server import HttpServer
from sourcelair.cli.system.leftovers import stop_instances
from sourcelair.cli.system.location import Location
from sourcelair.cli.system.node import ProxyNode
from sourcelair.cli.system.roles import SERVICES, Role
from sourcelair.errors import Conflict, LairError, Unavailable
from sourcelair.hemera.http import create_router as create_hemera_router
from sourcelair.rotation import keep_short
from sourcelair.servers.http import create_router as create_servers_router
from sourcelair.servers.service import ServersService
from sourcelair.settings import Settings
from sourcelair.store import Seats, Stores, open_stores
from sourcelair.store.base import Store

LOOK_AGAIN = 0.02
"""Seconds between looks at whether everything has come up; nothing tells us."""

ASK_AGAIN = 1.0
"""Seconds before a store that does not answer is asked again."""

LOG_LIMIT = 10 << 20
"""Bytes of the log of a `lair up` in the background before it is rotated."""

START_TIMEOUT, A_ROUTE = 30.0, 0.002
"""Seconds in which everything must have come up, and those that each route adds: all of them are read and applied."""

AT_ONCE = 2.0
"""Seconds that visitors of this node wait for the services; then it serves them with what it knows."""


class System:
    """One process of the system, whose part of the data directory the caller has locked.

    Args:
        settings: all of them.
        directory: prepared and locked.
        role: its part.
        say: told what is being done, for a person.
        take_over: servers are at home in this data directory from now on.
    """

    def __init__(
        self,
        settings: Settings,
        directory: DataDirectory,
        role: Role,
        say: Callable[[str], None],
        *,
        take_over: bool = False,
    ) -> None:
        self.settings = settings
        self.directory = directory
        self.role = role
        self.say = say
        self.api_url = advertised(settings, role)
        """Where the APIs of this process answer."""
        self.service_token = ""
        self.services = Services(None, None, None, None)
        """What this process acts for by now."""
        self._take_over = take_over
        self._everything = False
        self._failure: LairError | None = None
        self._stopping = asyncio.Event()
        self._hurry = asyncio.Event()
        self._background: list[asyncio.Task[Any]] = []
        self._serves: set[str] = set()
        self._open: set[str] = set()
        self._node: ProxyNode | None = None
        self._access: Access | None = None
        self._seats: Seats | None = None
        self._app = create_app()
        self._locations: dict[str, Location] = {}
        self._front = Forward(self._app, self._serves.__contains__, self._locations)

    @property
    def abilities(self) -> frozenset[str]:
        """What the process driver's cgroups can, once it runs."""
        return self.services.driver.abilities if self.services.driver else frozenset()

    def stop(self, *, everything: bool) -> None:
        """End `run`.

        Args:
            everything: NGINX too, and where this process is all of the system, its servers. Asked for a second time,
                what takes long is killed; a third time ends this process on the spot.
        """
        if everything and self._everything:
            if self._hurry.is_set():
                os._exit(130)
            self._hurry.set()
        self._everything = self._everything or everything
        self._stopping.set()

    def _lost(self, error: LairError) -> None:
        """Another process may be at work: this one ends, and leaves servers and NGINX to it."""
        self._failure = error
        self.stop(everything=False)

    async def readiness(self) -> dict[str, bool]:
        """Return the parts, and whether each is ready; all are once a visit would be served."""
        parts = {name: name in self._open or self._is_elsewhere(name) for name in self.role.services}
        return parts | (await self._node.readiness() if self._node is not None else {})

    def _is_elsewhere(self, name: str) -> bool:
        """Whether another process acts for a service."""
        location = self._locations.get(name)
        return location is not None and location.url not in {None, self.api_url}

    async def run(self, on_ready: Callable[[], Awaitable[None]]) -> None:
        """Run until `stop` is called.

        Args:
            on_ready: called once everything is up.

        Raises:
            LairError: it could not start; what it had started in this process has ended again.
        """
        try:
            async with AsyncExitStack() as stack:
                await self._run(stack, on_ready)
        except BaseExceptionGroup as group:
            cause = _first_cause(group)
            if isinstance(cause, Conflict) and self._node is not None:
                await self._node.undo()  # an NGINX that nobody fills holds its visitors up
            raise cause from group
        if self._failure is not None:
            raise self._failure

    async def _run(self, stack: AsyncExitStack, on_ready: Callable[[], Awaitable[None]]) -> None:
        settings, directory = self.settings, self.directory
        http: HttpServer | None = None
        if self.role.services:
            listening = bind(settings.api_listen, "api_listen")
            stack.callback(listening.close)
            http = HttpServer(self._front, listening)
        if self.role.proxy:
            self._node = ProxyNode(settings, directory)
        self.service_token = directory.token("service")
        stack.push_async_callback(self._front.close)
        clients = await open_clients(self.api_url, self.service_token, self._front, stack)
        serve(
            self._app,
            monitoring_router(self._authenticate, self.readiness, lambda: self.stop(everything=True)),
        )
        self.say(f"Opening the store in {settings.store or directory.path}")
        stores = await stack.enter_async_context(
            open_stores(settings.store or directory.path, identity=directory.identity, url=self.api_url)
        )
        self._follow(stores)
        async with asyncio.TaskGroup() as tasks:
            background = self._background = [tasks.create_task(keep_short([directory.log], LOG_LIMIT), name="logs")]
            if http is not None:
                tasks.create_task(http.run_forever(), name="http")
            try:
                async with AsyncExitStack() as acting:
                    turn = tasks.create_task(self._await_turn(stores, acting), name="turn")
                    await self._until(turn, timeout=AT_ONCE if stores.seats else None)
                    if self._node is not None and not self._stopping.is_set():
                        background += self._node.start(tasks, stores, clients, self.api_url, say=self.say)
                        self._place_waker()
                        if not turn.done() or "servers" not in self.role.services:
                            self._node.may_follow.set()
                    background.append(tasks.create_task(self._announce(turn, on_ready), name="ready"))
                    await self._until(turn)
                    if not turn.done():
                        await _cancel(turn)  # nothing is opened any more by who is to stop
                    else:
                        background.append(tasks.create_task(turn.result()[0].registry.follow(), name="tokens"))
                        await self._act(tasks, *turn.result(), clients, acting)
                    await self._stopping.wait()
                    if self._everything and self._node is not None:
                        self.say("Stopping NGINX")
                        await self._node.stop()
            finally:
                for task in background:
                    task.cancel()
                if http is not None:
                    http.should_exit = True

    def _authenticate(self, request: Request) -> Identity:
        if self._access is None:
            raise Unavailable("The tokens are being read.", retry_after=1)
        return self._access.authenticate(request)

    def _follow(self, stores: Stores) -> None:
        """Keep to what the store says of who acts for which service."""
        if stores.seats is None:
            return
        self._seats = stores.seats
        self._locations |= {name: Location(name) for name in SERVICES}
        stores.seats.on_change.append(self._seats_changed)

    def _seats_changed(self) -> None:
        for name, location in self._locations.items():
            location.move(self._seats.url(name) if self._seats else None)
        self._place_waker()

    def _place_waker(self) -> None:
        if self._node is not None and self._seats is not None:
            self._node.place_waker(self._seats.url("hemera"))

    async def _await_turn(self, stores: Stores, acting: AsyncExitStack) -> tuple[Access, Mapping[str, Store]]:
        """Wait until the tokens are read, and nobody else acts for the services of this process."""
        said = ""
        while True:
            try:
                access = self._access = await open_access(stores, self.directory)
                if "servers" in self.role.services and stores.seats is not None and not self._take_over:
                    await check_home(await stores.shared("servers"), self.directory.installation())
                break
            except Unavailable as error:
                if stores.seats is None:
                    raise
                if error.detail != said:
                    said = error.detail
                    self.say(f"{said} Trying again")
                await asyncio.sleep(ASK_AGAIN)
        serve(self._app, create_tokens_router(access.registry))
        if not self.role.services:
            return access, {}
        held = stores.hold(self.role.services, say=self.say, lost=self._lost)
        return access, await acting.enter_async_context(held)

    async def _act(
        self,
        tasks: asyncio.TaskGroup,
        access: Access,
        stores: Mapping[str, Store],
        clients: Clients,
        acting: AsyncExitStack,
    ) -> None:
        """Act for the services of this process."""
        if self.role.services:
            self.say("Starting the services")
        parts = self.services = await make_services(
            self.settings,
            self.directory,
            stores,
            self.role.services,
            clients=clients,
            access=access,
            api_url=self.api_url,
            take_over=self._take_over,
            stack=acting,
        )
        if parts.hemera is not None:
            # No gate here: to a proxy node a 503 means that a start failed. Hemera itself says "not yet".
            self._answer("hemera", create_hemera_router(parts.hemera, access.authenticate), acting)
        if parts.ceryx is not None:
            await acting.enter_async_context(parts.ceryx)
            self._answer("ceryx", create_ceryx_router(parts.ceryx, access.authenticate), acting)
            self._opened("ceryx", acting)
        if parts.servers is not None:
            closed = gate("The SourceLair API", lambda: "servers" in self._open, access.authenticate)
            self._answer("servers", create_servers_router(parts.servers, closed), acting)
            acting.push_async_callback(self._stop_instances)
            await acting.enter_async_context(parts.servers)
            self._opened("servers", acting)
            self._background.append(tasks.create_task(self._let_node_follow(parts.servers), name="follow"))
        if parts.hemera is not None:
            await acting.enter_async_context(parts.hemera)
            self._opened("hemera", acting)

    def _answer(self, name: str, router: APIRouter, acting: AsyncExitStack) -> None:
        serve(self._app, router)
        self._serves.add(name)
        acting.callback(self._serves.discard, name)

    def _opened(self, name: str, acting: AsyncExitStack) -> None:
        self._open.add(name)
        acting.callback(self._open.discard, name)

    async def _let_node_follow(self, servers: ServersService) -> None:
        """Let the agent follow the routes once they are true: after a reboot they name what is somebody else's."""
        await servers.recovered.wait()
        if self._node is not None:
            self._node.may_follow.set()

    async def _stop_instances(self) -> None:
        driver = self.services.driver
        if self._everything and self.role.is_all and driver is not None:
            self.say("Stopping project servers")
            await stop_instances(
                driver,
                self.settings.stop_grace,
                self._hurry,
                lambda: self.say("Some take their time to end. Ctrl-C again kills them at once"),
            )

    async def _until(self, task: asyncio.Task[Any], timeout: float | None = None) -> None:
        """Wait until a task is done, which raises what it raised, or it is to stop, or `timeout` seconds are over."""
        stopping = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait({task, stopping}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
        if task.done():
            task.result()

    async def _announce(self, turn: asyncio.Task[Any], on_ready: Callable[[], Awaitable[None]]) -> None:
        """Wait until everything is ready, here or where it runs, and say so.

        Raises:
            Unavailable: it takes too long.
        """
        deadline: float | None = None
        while not all((parts := await self.readiness()).values()) or self._access is None:
            now = asyncio.get_running_loop().time()
            if turn.done() and deadline is None:
                routes = self.services.ceryx.routes.count if self.services.ceryx else 0
                deadline = now + START_TIMEOUT + A_ROUTE * routes
            if deadline is not None and now > deadline and self.role.is_all:
                late = ", ".join(name for name, ready in parts.items() if not ready)
                raise Unavailable(
                    f"Not ready after {deadline - now + START_TIMEOUT:.0f} s: {late}. `lair doctor` looks for the "
                    f"cause; logs are in {self.directory.logs}."
                )
            await asyncio.sleep(LOOK_AGAIN)
        await on_ready()


async def _cancel(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def _first_cause(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return what to tell of a group of errors: the first that is for a person, else the first."""
    flat: list[BaseException] = []
    pending: list[BaseException] = [group]
    while pending:
        error = pending.pop(0)
        if isinstance(error, BaseExceptionGroup):
            pending.extend(error.exceptions)
        else:
            flat.append(error)
    return next((error for error in flat if isinstance(error, LairError)), flat[0])
