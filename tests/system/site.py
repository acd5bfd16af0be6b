"""An installation under test, as its operator and its visitors see it."""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tests.system.lair import Lair
from tests.system.visitors import Answer, Traffic, fetch

from sourcelair.client.ceryx import CeryxClient
from sourcelair.client.policy import Limits, SleepPolicy
from sourcelair.client.servers import (
    Readiness,
    Server,
    ServerInput,
    ServersClient,
    SleepRequest,
    Spec,
)

IDENTITY = Path(__file__).parent / "apps" / "identity.py"

SETTLED = 20.0
"""Seconds within which a server must reach the state that a test waits for."""

LOOK = 0.02
"""Seconds between looks at a state that is not ours to be told of."""


@dataclass
class App:
    """A server that runs `apps/identity.py`, and its books."""

    site: Site
    owner: str
    project: str
    books: Path

    @property
    def host(self) -> str:
        """Its public host."""
        return self.site.host(self.owner, self.project)

    @property
    def name(self) -> str:
        """What it calls itself."""
        return f"{self.owner}/{self.project}"

    def _book(self, name: str) -> list[str]:
        path = self.books / name
        return path.read_text().splitlines() if path.exists() else []

    def starts(self) -> list[str]:
        """Return the instances that were started, in order."""
        return [line.split()[0] for line in self._book("starts")]

    def twice(self) -> list[str]:
        """Return the instances that were started while another one ran."""
        return self._book("twice")

    def requests(self) -> Counter[str]:
        """Return how often each numbered request arrived."""
        return Counter(self._book("requests"))

    def messages(self) -> list[str]:
        """Return the WebSocket messages that began with `#`, in the order of their arrival."""
        return self._book("messages")

    async def fetch(
        self, path: str = "/", *, method: str = "GET", body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> Answer:
        """Visit it once."""
        return await fetch(self.site.address, self.host, path, method=method, body=body, headers=headers)

    async def server(self) -> Server:
        """Return what the API says of it."""
        return await self.site.servers.get(self.owner, self.project)

    async def until(self, *states: str, within: float = SETTLED) -> Server:
        """Wait for a state."""
        return await self.site.until(self.owner, self.project, *states, within=within)

    def let_up(self) -> None:
        """Let a server that was created as `gated` come up, now and from now on."""
        (self.books / "gate").touch()

    async def stop(self) -> Server:
        """Stop it explicitly."""
        return await self.site.servers.stop(self.owner, self.project)

    async def sleep(self, mode: Literal["stop", "doze"] = "stop") -> bool:
        """Ask for an idle stop, or a doze, as Hemera does; return whether it sleeps now."""
        server = await self.server()
        if server.instance is None:
            return False
        (activity,) = await self.site.ceryx.activity([server.instance.id])
        request = SleepRequest(instance=server.instance.id, totals=activity.totals, mode=mode)
        return (await self.site.servers.sleep(self.owner, self.project, request)).slept

    def check_books(self, seen: Traffic) -> None:
        """Every request was answered, and reached the app exactly once."""
        assert not seen.failures, f"{len(seen.failures)} of {len(seen.sent)}: {seen.failures[:5]}"
        arrived = self.requests()
        twice = [number for number in seen.sent if arrived[number] > 1]
        lost = [number for number in seen.sent if arrived[number] == 0]
        assert not twice, f"sent twice: {twice[:5]}"
        assert not lost, f"answered, and never arrived: {lost[:5]}"
        assert set(seen.names) == {self.name}


class Site:
    """A running installation: where its visitors and its API are.

    Args:
        lair: the installation.
        servers: the SourceLair API, as its own services use it (only they may ask for an idle stop).
        ceryx: Ceryx's API, likewise.
    """

    def __init__(self, lair: Lair, servers: ServersClient, ceryx: CeryxClient) -> None:
        self.lair, self.servers, self.ceryx = lair, servers, ceryx
        self.address = ("127.0.0.1", lair.port)

    def host(self, owner: str, project: str) -> str:
        """Return a server's public host."""
        return self.lair.host(f"{owner}/{project}")

    async def fetch(self, host: str, path: str = "/", **arguments: object) -> Answer:
        """Visit any host once."""
        return await fetch(self.address, host, path, **arguments)  # type: ignore[arg-type]

    async def put(
        self,
        owner: str,
        project: str,
        command: list[str],
        *,
        directory: Path | None = None,
        env: dict[str, str] | None = None,
        sleep: SleepPolicy | None = None,
        readiness: Readiness | None = None,
        always_on: bool = False,
    ) -> Server:
        """Create or change a server."""
        spec = Spec(
            command=command,
            directory=str(directory) if directory else None,
            env=env or {},
            sleep=sleep or SleepPolicy(),
            readiness=readiness or Readiness(),
            limits=Limits(),
        )
        return await self.servers.put(owner, project, ServerInput(spec=spec, always_on=always_on))

    async def identity(
        self,
        owner: str,
        project: str,
        directory: Path,
        *,
        idle_timeout: float | None = None,
        drain_timeout: float | None = None,
        delay: float = 0.0,
        gated: bool = False,
        always_on: bool = False,
        env: dict[str, str] | None = None,
        readiness: Readiness | None = None,
        policy: SleepPolicy | None = None,
    ) -> App:
        """Create a server that runs `apps/identity.py`.

        Args:
            owner: its owner.
            project: its project.
            directory: a place for its books.
            idle_timeout: seconds without activity before it sleeps.
            drain_timeout: seconds that an explicit stop waits for requests.
            delay: seconds that it takes to start.
            gated: it comes up only when it was let up; so a test never misses the start.
            always_on: never asleep.
            env: its variables; `KEEP_ALIVE`, for one.
            readiness: when it counts as ready.
            policy: when it sleeps, instead of the two times above.
        """
        books = directory / f"{project}--{owner}"
        books.mkdir()
        app = App(self, owner, project, books)
        command = [sys.executable, "-S", "-E", str(IDENTITY), "{port}", str(books), app.name]
        if gated:
            command = ["sh", "-c", 'until [ -e gate ]; do sleep 0.02; done; exec "$@"', "sh", *command]
        if delay:
            command = ["sh", "-c", f'sleep {delay}; exec "$@"', "sh", *command]
        await self.put(
            owner,
            project,
            command,
            directory=books,
            env=env,
            sleep=policy or SleepPolicy(stop_after=idle_timeout, drain_timeout=drain_timeout),
            readiness=readiness,
            always_on=always_on,
        )
        return app

    async def create(
        self, name: str, command: list[str], directory: Path, *, idle: str, env: list[str] | None = None
    ) -> None:
        """Create a server as a person does, by the command line.

        Args:
            name: `owner/project`.
            command: with `{port}` for its port.
            directory: that it runs in.
            idle: time without activity before it sleeps, as `1s`.
            env: variables as `K=V`.
        """
        flags = [flag for variable in env or [] for flag in ("--env", variable)]
        await asyncio.to_thread(
            self.lair.cli, "create", name, "--dir", str(directory), "--idle", idle, *flags, "--", *command
        )

    async def until(self, owner: str, project: str, *states: str, within: float = SETTLED) -> Server:
        """Wait until a server is in one of these states, and return it."""
        deadline = time.monotonic() + within
        while True:
            server = await self.servers.get(owner, project)
            if server.state in states:
                return server
            if time.monotonic() > deadline:
                raise AssertionError(
                    f"{owner}/{project} is {server.state} ({server.cause}), not {states}: {server.failure}"
                )
            await asyncio.sleep(LOOK)


@asynccontextmanager
async def site_of(lair: Lair) -> AsyncIterator[Site]:
    """Open the clients of a running installation."""
    token = (lair.data_dir / "service.token").read_text().strip()
    async with ServersClient(lair.api, token) as servers, CeryxClient(lair.api, token) as ceryx:
        yield Site(lair, servers, ceryx)
