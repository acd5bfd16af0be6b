"""Hemera without HTTP: who is awake, waking, sleeping, and what visitors are told meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Self, TypeVar

from sourcelair.client.ceryx import CeryxClient
from sourcelair.client.servers import ServersClient
from sourcelair.errors import Unreachable
from sourcelair.hemera.activities import Activities
from sourcelair.hemera.directory import Directory
from sourcelair.hemera.pages.own import OwnPages
from sourcelair.hemera.remaining import Remaining
from sourcelair.hemera.retries import Retries
from sourcelair.hemera.sleeper import Sleeper
from sourcelair.hemera.start_logs import StartLogs
from sourcelair.hemera.waits import Waits
from sourcelair.hemera.waker import Waker
from sourcelair.settings import Settings

T = TypeVar("T")


class HemeraService:
    """Hemera's own work.

    Args:
        settings: those that bound starts, `longest_extension` and `pages_dir`.
        servers: the SourceLair API; it need not answer yet.
        ceryx: Ceryx; it need not answer yet.
    """

    def __init__(self, settings: Settings, servers: ServersClient, ceryx: CeryxClient) -> None:
        self.directory = Directory(servers)
        self.waker = Waker(settings, servers, self.directory, self._spawn)
        self.sleeper = Sleeper(servers, ceryx, self.directory)
        self.retries = Retries(servers, self.directory, self.waker.rates)
        self.activities = Activities(ceryx)
        self.timeleft = Remaining(servers, self.activities, self.directory, settings.longest_extension)
        self.pages = OwnPages(settings.pages_dir)
        self.waits = Waits()
        self.start_logs = StartLogs(servers, self._spawn)
        self.closing = asyncio.Event()
        """Set once the service closes: every stream ends then."""
        self._tasks: set[asyncio.Task[Any]] = set()
        self._group: asyncio.TaskGroup | None = None

    @property
    def started(self) -> bool:
        """Whether it can wake anything by now."""
        return self._group is not None

    async def __aenter__(self) -> Self:
        self._group = await asyncio.TaskGroup().__aenter__()
        self._spawn(self.directory.follow())
        self._spawn(self.sleeper.run())
        self._spawn(self.activities.run())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.closing.set()
        self.directory.notify()
        group, self._group = self._group, None
        for task in list(self._tasks):
            task.cancel()
        if group is not None:
            await group.__aexit__(None, None, None)

    def _spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        if self._group is None:
            work.close()
            raise Unreachable("Hemera has just ended, or not begun.", retry_after=1)
        task = self._group.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
