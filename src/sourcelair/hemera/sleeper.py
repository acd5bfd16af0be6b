"""Sleeping: looks at each server when it may be idle at the earliest, and asks the API to stop or freeze it."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import math
import time
from collections.abc import Callable
from typing import Any

from sourcelair.client.ceryx import Activity, CeryxClient
from sourcelair.client.servers import Server, ServersClient, SleepRequest
from sourcelair.errors import LairError
from sourcelair.hemera import metrics
from sourcelair.hemera.directory import Directory, Name
from sourcelair.hemera.idleness import LOOK_AGAIN, Mode, first_look, judge, may_sleep
from sourcelair.telemetry import get_logger

_log = get_logger(__name__)

MOST_AT_ONCE = 500
"""Servers whose activity is asked for in one request."""

SOONEST = 0.1
"""Seconds between two looks at one server, at least: its policy may name any time, however short."""

MOST_SLEEPING = 100
"""Servers that are being put to sleep at once."""

LONGEST_VETO, LONGEST_REFUSAL = 30.0, 5.0
"""Seconds until it is tried again where the app itself may say no, and where it may not, after doubling."""


class _Followed:
    """An instance that may sleep some day."""

    __slots__ = ("active_since", "asked", "facts", "look_at", "name", "pause", "state")

    def __init__(self, name: Name, state: str) -> None:
        self.name = name
        self.state = state
        self.facts: tuple[Any, ...] = ()
        """What `look_at` follows from, besides activity."""
        self.look_at = 0.0
        self.active_since = 0.0
        """The last use of it that is known."""
        self.pause = 0.0
        """Seconds until it was tried again, after it was refused."""
        self.asked = False
        """Whether the API is just putting it to sleep."""


class Sleeper:
    """Puts idle servers to sleep.

    Only what changes or is due is looked at, however many servers there are.

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
        self._followed: dict[str, _Followed] = {}
        """By instance."""
        self._instances: dict[Name, str] = {}
        self._heap: list[tuple[float, str]] = []
        """When to look at which instance; what does not agree with its `look_at` is out of date."""
        self._sooner = asyncio.Event()
        """Set when somebody is due sooner than was known."""
        self._room = asyncio.Semaphore(MOST_SLEEPING)
        directory.listen(self._changed)

    async def run(self) -> None:
        """Put servers to sleep, for ever."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                await self._directory.synced.wait()
                self._sooner.clear()
                pause = await self.look(tasks)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._sooner.wait()

    async def look(self, tasks: asyncio.TaskGroup) -> float | None:
        """Look at all who are due.

        Args:
            tasks: gets one for each that is put to sleep.

        Returns:
            the seconds until the next is due; None where nobody is.
        """
        while True:
            due, earliest = self._due(self._clock())
            if not due:
                return None if earliest is None else max(0.001, earliest - self._clock())
            await self._look_at_all(due, tasks)

    def _changed(self, name: Name, server: Server | None) -> None:
        instance = server.instance.id if server is not None and server.instance is not None else None
        before = self._instances.get(name)
        if before is not None and before != instance:
            del self._instances[name]
            self._followed.pop(before, None)
        if server is None or instance is None:
            return
        followed = self._followed.get(instance)
        if followed is None:
            if server.state not in {"awake", "dozing"}:
                return
            followed = self._followed[instance] = _Followed(name, server.state)
            self._instances[name] = instance
        if server.state in {"awake", "dozing"}:
            followed.state = server.state
        # Not its state as such: if an idle stop is cancelled, the next look is not due at once.
        facts = (server.policy, server.always_on, _kept(server), followed.state)
        if any(new is not old and new != old for new, old in zip(facts, followed.facts, strict=False)):
            followed.facts = ()
        if not followed.facts:
            followed.facts = facts
            followed.pause = 0.0
            self._look_at(instance, first_look(server, followed.active_since, self._clock()))

    def _look_at(self, instance: str, at: float) -> None:
        followed = self._followed.get(instance)
        if followed is None:
            return
        followed.look_at = at
        if at == math.inf:  # until something changes
            return
        if not self._heap or at < self._heap[0][0]:
            self._sooner.set()
        heapq.heappush(self._heap, (at, instance))
        if len(self._heap) > 2 * len(self._followed) + 100:
            self._heap = [(each.look_at, key) for key, each in self._followed.items() if each.look_at < math.inf]
            heapq.heapify(self._heap)

    def _due(self, now: float) -> tuple[list[tuple[_Followed, Server]], float | None]:
        """Return whom to look at now; where there is nobody, when the next one is due."""
        due: list[tuple[_Followed, Server]] = []
        while self._heap and len(due) < MOST_AT_ONCE:
            at, instance = self._heap[0]
            followed = self._followed.get(instance)
            if followed is None or followed.look_at != at or followed.asked:
                heapq.heappop(self._heap)
                continue
            if at > now:
                return due, at
            heapq.heappop(self._heap)
            server = self._directory.server(followed.name)
            if server is None or not may_sleep(server):  # such as one that is just draining
                self._look_at(instance, now + LOOK_AGAIN)
            else:
                due.append((followed, server))
        return due, None

    async def _look_at_all(self, due: list[tuple[_Followed, Server]], tasks: asyncio.TaskGroup) -> None:
        instances = [self._instances[followed.name] for followed, _ in due]
        try:
            seen = await self._ceryx.activity(instances)
        except LairError as error:
            _log.warning("activity_not_known", error=error.detail)
            for instance in instances:
                self._look_at(instance, self._clock() + LOOK_AGAIN)
            return
        now = self._clock()
        for (followed, server), activity in zip(due, seen, strict=True):
            last = now if activity.active else activity.last_active or 0.0
            if last > followed.active_since:
                followed.active_since, followed.pause = last, 0.0
            verdict = judge(server, activity, now, followed.active_since)
            self._look_at(activity.instance, max(verdict.look_at, now + SOONEST))
            if verdict.mode is not None:
                followed.asked = True
                tasks.create_task(self._sleep(followed, server, activity, verdict.mode))

    async def _sleep(self, followed: _Followed, server: Server, activity: Activity, mode: Mode) -> None:
        request = SleepRequest(
            instance=activity.instance,
            totals=activity.totals,
            mode=mode,
            revision=server.revision,
            last_active=activity.last_active,
        )
        name = f"{server.owner}/{server.project}"
        pause = LOOK_AGAIN
        try:
            async with self._room:
                result = await self._servers.sleep(server.owner, server.project, request)
        except LairError as error:
            _log.warning("sleep_not_answered", server=name, error=error.detail)
        else:
            metrics.SLEEPS.labels(mode, "slept" if result.slept else "refused").inc()
            _log.info("sleep", server=name, mode=mode, slept=result.slept, reason=result.reason)
            if not result.slept:
                longest = LONGEST_VETO if server.policy.sleep.check else LONGEST_REFUSAL
                pause = followed.pause = min(max(LOOK_AGAIN, followed.pause * 2), longest)
        followed.asked = False
        self._look_at(activity.instance, max(followed.look_at, self._clock() + pause))


def _kept(server: Server) -> tuple[float | None, float | None]:
    instance = server.instance
    return (None, None) if instance is None else (instance.busy_until, instance.extended_until)
