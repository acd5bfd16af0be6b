"""All of SourceLair in one process: starts everything in order, waits for the word to stop, and ends it in order."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from typing import Any

from sourcelair.auth.http import authenticator
from sourcelair.auth.http import create_router as create_tokens_router
from sourcelair.ceryx.agent import Agent
from sourcelair.ceryx.http import create_router as create_ceryx_router
from sourcelair.ceryx.nginx.engine import NginxEngine
from sourcelair.cli.session import reachable
from sourcelair.cli.system.addresses import bind, check_free
from sourcelair.cli.system.app import create_app, gate, monitoring_router, serve
from sourcelair.cli.system.assembly import Parts, assemble
from sourcelair.cli.system.directory import DataDirectory
from sourcelair.cli.system.http_server import HttpServer
from sourcelair.cli.system.leftovers import stop_instances
from sourcelair.errors import LairError, Unavailable
from sourcelair.hemera.http import create_router as create_hemera_router
from sourcelair.rotation import keep_short
from sourcelair.servers.http import create_router as create_servers_router
from sourcelair.settings import TEST_PREFIX, Settings, split_address

STALL = f"{TEST_PREFIX}STALL"
"""Variable for tests: seconds that a worker may spend between looking a host up and counting the request."""

LOOK_AGAIN = 0.02
"""Seconds between looks at whether everything has come up; nothing tells us."""

LOG_LIMIT = 10 << 20
"""Bytes of the log of a `lair up` in the background before it is rotated."""

START_TIMEOUT, A_ROUTE = 30.0, 0.002
"""Seconds in which everything must have come up, and those that each route adds: all of them are read and applied."""

CONNECT_TIMEOUT = 1.0
"""Seconds in which NGINX must take a connection for `/readyz`."""


class System:
    """The whole system of one data directory, whose lock the caller holds.

    Args:
        settings: all of them.
        directory: prepared and locked.
        say: told what is being done, for a person.
    """

    def __init__(self, settings: Settings, directory: DataDirectory, say: Callable[[str], None]) -> None:
        self.settings = settings
        self.directory = directory
        self.say = say
        self.service_token = ""
        self.abilities: frozenset[str] = frozenset()
        """What the process driver's cgroups can, once it runs."""
        self._everything = False
        self._failure: LairError | None = None
        self._stopping = asyncio.Event()
        self._hurry = asyncio.Event()
        self._open: set[str] = set()
        self._agent: Agent | None = None
        self._engine: NginxEngine | None = None

    @property
    def api_url(self) -> str:
        """Where the APIs answer on this machine."""
        return f"http://{reachable(self.settings.api_listen)}"

    def stop(self, *, everything: bool) -> None:
        """End `run`.

        Args:
            everything: servers and NGINX too. Asked for a second time, what takes long is killed; a third time ends
                this process on the spot.
        """
        if everything and self._everything:
            if self._hurry.is_set():
                os._exit(130)
            self._hurry.set()
        self._everything = self._everything or everything
        self._stopping.set()

    def _lost(self, error: LairError) -> None:
        """Another control plane may be at work: this one ends, and leaves servers and NGINX to it."""
        self._failure = error
        self.stop(everything=False)

    async def readiness(self) -> dict[str, bool]:
        """Return the parts, and whether each is ready; all are once a visit would be served."""
        return {
            "ceryx": "ceryx" in self._open,
            "servers": "servers" in self._open,
            "hemera": "hemera" in self._open,
            "agent": self._agent is not None and self._agent.ready,
            "nginx": await _accepts(self.settings.listen),
        }

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
            raise _first_cause(group) from group
        if self._failure is not None:
            raise self._failure

    async def _run(self, stack: AsyncExitStack, on_ready: Callable[[], Awaitable[None]]) -> None:
        settings, directory = self.settings, self.directory
        listening = bind(settings.api_listen, "api_listen")
        stack.callback(listening.close)
        stall = float(os.environ.get(STALL) or 0.0)
        engine = self._engine = NginxEngine(settings, directory.path / "nginx", stall=stall)
        if engine.pid is None:
            check_free(settings.listen, "listen")

        self.say(f"Opening the store in {settings.store or directory.path}")
        app = create_app()
        parts = await self._unless_stopped(
            assemble(settings, directory, engine, self.api_url, stack, app=app, say=self.say, lost=self._lost)
        )
        if parts is None:
            return
        self._agent = parts.agent
        self.service_token = parts.service_token
        self.abilities = parts.driver.abilities
        authenticate = authenticator(parts.registry, parts.instance_tokens)
        serve(
            app,
            # No gate here: to a proxy node a 503 means that a start failed. Hemera itself says "not yet".
            create_hemera_router(parts.hemera, authenticate),
            create_ceryx_router(parts.ceryx, authenticate),
            create_servers_router(
                parts.servers, gate("The SourceLair API", lambda: "servers" in self._open, authenticate)
            ),
            create_tokens_router(parts.registry),
            monitoring_router(authenticate, self.readiness, lambda: self.stop(everything=True)),
        )

        await stack.enter_async_context(parts.ceryx)
        self._open.add("ceryx")
        await self._serve(parts, HttpServer(app, listening), on_ready)

    async def _unless_stopped(self, assembling: Coroutine[Any, Any, Parts]) -> Parts | None:
        """Return the parts; None if it is to stop before: their stores may be waited for, for as long as it takes."""
        task, stopping = asyncio.ensure_future(assembling), asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait({task, stopping}, return_when=asyncio.FIRST_COMPLETED)
            return task.result() if task.done() else None
        finally:
            stopping.cancel()
            if not task.done():
                await _cancel([task])

    async def _serve(self, parts: Parts, http: HttpServer, on_ready: Callable[[], Awaitable[None]]) -> None:
        engine = parts.engine
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(http.run_forever(), name="http")
            proxy: list[asyncio.Task[None]] = []
            try:
                async with AsyncExitStack() as started:
                    self.say("Starting NGINX" if engine.pid is None else f"NGINX runs already (process {engine.pid})")
                    proxy = [
                        tasks.create_task(engine.run(), name="nginx"),
                        tasks.create_task(_run_agent(parts), name="agent"),
                        tasks.create_task(keep_short([self.directory.log], LOG_LIMIT), name="logs"),
                    ]
                    self.say("Starting the services")
                    for name, service in (("servers", parts.servers), ("hemera", parts.hemera)):
                        await started.enter_async_context(service)
                        self._open.add(name)
                        started.callback(self._open.discard, name)
                    if await self._came_up(START_TIMEOUT + A_ROUTE * parts.ceryx.routes.count):
                        await on_ready()
                        await self._stopping.wait()
                    if self._everything:
                        self.say("Stopping NGINX")
                        await _cancel(proxy)
                        await engine.stop()
                if self._everything:
                    self.say("Stopping project servers")
                    await stop_instances(
                        parts.driver,
                        self.settings.stop_grace,
                        self._hurry,
                        lambda: self.say("Some take their time to end. Ctrl-C again kills them at once"),
                    )
            finally:
                for task in proxy:
                    task.cancel()
                parts.ceryx.close_streams()
                http.should_exit = True

    async def _came_up(self, timeout: float) -> bool:
        """Wait until everything is ready, for `timeout` seconds. Returns False where it is to stop before that.

        Raises:
            Unavailable: it takes too long.
        """
        deadline = asyncio.get_running_loop().time() + timeout
        while not self._stopping.is_set():
            parts = await self.readiness()
            if all(parts.values()):
                return True
            if asyncio.get_running_loop().time() > deadline:
                late = ", ".join(name for name, ready in parts.items() if not ready)
                raise Unavailable(
                    f"Not ready after {timeout:.0f} s: {late}. `lair doctor` looks for the cause; "
                    f"logs are in {self.directory.logs}."
                )
            await asyncio.sleep(LOOK_AGAIN)
        return False


async def _run_agent(parts: Parts) -> None:
    """Run the agent once the routes are true: after a reboot the store still names targets that are somebody else's."""
    await parts.servers.recovered.wait()
    await parts.agent.run()


async def _accepts(address: str) -> bool:
    """Return whether somebody takes connections there."""
    host, port = split_address(reachable(address))
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT):
            _, writer = await asyncio.open_connection(host, port)
    except OSError:  # TimeoutError is one
        return False
    writer.close()
    return True


async def _cancel(tasks: Sequence[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


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
