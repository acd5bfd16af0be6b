"""Sleeping: looks at each awake server when it may be idle at the earliest, and asks the API for an idle stop."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable

from sourcelair.client.ceryx import Activity, CeryxClient
from sourcelair.client.policy import seconds
from sourcelair.client.servers import Server, ServersClient, SleepRequest
from sourcelair.errors import LairError
from sourcelair.hemera import metrics
from sourcelair.hemera.directory import Directory
from sourcelair.hemera.idleness import LOOK_AGAIN, first_look, judge, may_sleep
from sourcelair.telemetry import get_logger

_log = get_logger(__name__)

MOST_AT_ONCE = 500
"""Servers whose activity is asked for in one request."""


class Sleeper:
    """Puts idle servers to sleep.

    Args:
        servers: the SourceLair API.
        ceryx: knows the activity.
        directory: knows who is awake.
        clock: Unix seconds.
    """

    def __init__(
        self,
        servers: ServersClient,
        ceryx: CeryxClient,
        directory: Directory,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._servers = servers
        self._ceryx = ceryx
        self._directory = directory
        self._clock = clock
        self._look_at: dict[str, float] = {}
        """When to look next, by instance."""

    def idle_timeout(self, server: Server) -> float:
        """Return the seconds without activity after which this server sleeps."""
        return seconds(server.policy.sleep.stop_after) or math.inf

    async def run(self) -> None:
        """Put servers to sleep, for ever."""
        while True:
            await self._directory.synced.wait()
            running = {server.instance.id: server for server in self._directory.servers() if server.instance}
            awake = {instance: server for instance, server in running.items() if may_sleep(server)}
            # Also of one that is just draining: if that is cancelled, the next look is not due at once.
            self._look_at = {instance: at for instance, at in self._look_at.items() if instance in running}
            for instance, server in awake.items():
                self._look_at.setdefault(instance, first_look(server, self.idle_timeout(server)))
            now = self._clock()
            due = [instance for instance in awake if self._look_at[instance] <= now]
            for start in range(0, len(due), MOST_AT_ONCE):
                some = due[start : start + MOST_AT_ONCE]
                await self._look([awake[instance] for instance in some], some)
            if not due:
                earliest = min((self._look_at[instance] for instance in awake), default=None)
                await self._directory.changed(None if earliest is None else max(0.001, earliest - now))

    async def _look(self, servers: list[Server], instances: list[str]) -> None:
        try:
            seen = await self._ceryx.activity(instances)
        except LairError as error:
            _log.warning("activity_not_known", error=error.detail)
            for instance in instances:
                self._look_at[instance] = self._clock() + LOOK_AGAIN
            return
        async with asyncio.TaskGroup() as tasks:
            for server, activity in zip(servers, seen, strict=True):
                verdict = judge(server, activity, self.idle_timeout(server), self._clock())
                self._look_at[activity.instance] = verdict.look_at
                if verdict.idle:
                    tasks.create_task(self._sleep(server, activity))

    async def _sleep(self, server: Server, activity: Activity) -> None:
        request = SleepRequest(instance=activity.instance, totals=activity.totals)
        name = f"{server.owner}/{server.project}"
        try:
            result = await self._servers.sleep(server.owner, server.project, request)
        except LairError as error:
            _log.warning("sleep_not_answered", server=name, error=error.detail)
            return
        metrics.SLEEPS.labels("slept" if result.slept else "refused").inc()
        _log.info("sleep", server=name, slept=result.slept, reason=result.reason)
