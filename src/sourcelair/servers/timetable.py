"""Schedules: servers are started when a window of theirs begins, and again when they end within it.

Level-triggered: each look asks what should be so by now, so a crash or a wall clock that was set is no special case.
Only servers that have a schedule cost anything, and those only when a window of theirs begins or ends.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import Callable

from sourcelair.client.policy import Policy
from sourcelair.client.schedules import next_change
from sourcelair.servers import machine
from sourcelair.servers.reasons import is_due
from sourcelair.servers.worker import Worker
from sourcelair.telemetry import get_logger

_log = get_logger(__name__)

LONGEST_WAIT = 60.0
"""Seconds after which the wall clock is compared with one that nobody sets."""

CLOCK_SET = 2.0
"""Seconds by which the two may differ from one look to the next before the wall clock counts as set."""

AT_ONCE = 100
"""Servers that are looked at before others have their turn."""

TRY_AGAIN = 5.0
"""Seconds until a server is looked at again whose record could not be written."""


class Timetable:
    """Starts servers by their schedules.

    Args:
        clock: Unix seconds.
        steady: seconds of a clock that nobody sets.
    """

    def __init__(self, clock: Callable[[], float], steady: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._steady = steady
        self._workers: dict[str, Worker] = {}
        """Those that have a schedule."""
        self._due: list[tuple[float, str]] = []
        """A heap of when to look at whom; what is out of date in it costs a look, and no more."""
        self._due_at: dict[str, float] = {}
        """The newest of them of each."""
        self._changed: dict[str, None] = {}
        self._changes: dict[int, tuple[Policy, float | None]] = {}
        """The next change of each policy, which many servers share; of one round."""
        self._wake = asyncio.Event()

    def look(self, worker: Worker) -> None:
        """Take notice of a server that changed."""
        name = worker.record.name
        if worker.removed or not worker.record.policy.sleep.schedule:
            self._workers.pop(name, None)
            return
        self._workers[name] = worker
        self._changed[name] = None
        self._wake.set()

    async def run(self) -> None:
        """Start servers by their schedules, for ever."""
        offset = self._clock() - self._steady()
        while True:
            now = self._clock()
            if abs(now - self._steady() - offset) > CLOCK_SET:  # every time that was worked out may be wrong
                self._due.clear()
                self._due_at.clear()
                self._changed |= dict.fromkeys(self._workers)
            offset = now - self._steady()
            while self._due and self._due[0][0] <= now:
                name = heapq.heappop(self._due)[1]
                self._due_at.pop(name, None)
                self._changed[name] = None
            self._changes.clear()
            names, self._changed = list(self._changed), {}
            for count, name in enumerate(names, 1):
                await self._look(name, now)
                if count % AT_ONCE == 0:
                    await asyncio.sleep(0)
            left = self._due[0][0] - self._clock() if self._due else LONGEST_WAIT
            if not self._changed:
                self._wake.clear()
                try:
                    async with asyncio.timeout(min(LONGEST_WAIT, max(0.0, left))):
                        await self._wake.wait()
                except TimeoutError:
                    continue

    async def _look(self, name: str, now: float) -> None:
        worker = self._workers.get(name)
        if worker is None or worker.removed:
            return
        if is_due(worker.record, now) == "schedule":
            _log.info("scheduled", server=name)
            try:
                await worker.update(
                    lambda record: (
                        machine.want_kept(record, "its schedule", now, actor="schedule")
                        if is_due(record, now) == "schedule"
                        else record
                    )
                )
            except Exception:  # it is tried again, and the others are still to be looked at
                _log.exception("not_scheduled", server=name)
                self._look_at(now + TRY_AGAIN, name)
                return
        policy = worker.record.policy
        if id(policy) not in self._changes:
            self._changes[id(policy)] = policy, next_change(policy.sleep.schedule, now)
        if (change := self._changes[id(policy)][1]) is not None:
            self._look_at(change, name)

    def _look_at(self, when: float, name: str) -> None:
        if self._due_at.get(name) != when:
            self._due_at[name] = when
            heapq.heappush(self._due, (when, name))
