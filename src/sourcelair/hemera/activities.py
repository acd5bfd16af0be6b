"""The activity of instances for whoever asks: Ceryx is asked about each once a second at most, about many at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from sourcelair.client.ceryx import Activity, CeryxClient
from sourcelair.errors import LairError
from sourcelair.hemera.sleeper import MOST_AT_ONCE

KEPT = 1.0
"""Seconds for which an answer is good."""


class Activities:
    """What nodes say of instances, at most `KEPT` seconds old.

    Args:
        ceryx: knows it.
        clock: monotonic seconds.
    """

    def __init__(self, ceryx: CeryxClient, clock: Callable[[], float] = time.monotonic) -> None:
        self._ceryx = ceryx
        self._clock = clock
        self._asked: dict[str, asyncio.Future[Activity]] = {}
        """Of those who wait, by instance."""
        self._known: dict[str, tuple[float, Activity]] = {}
        """When it was asked for, and what it was; the oldest first."""
        self._wanted = asyncio.Event()

    async def run(self) -> None:
        """Ask Ceryx, for ever."""
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            while self._asked:
                some = dict(list(self._asked.items())[:MOST_AT_ONCE])
                asked_at = self._clock()
                try:
                    seen = await self._ceryx.activity(list(some))
                except LairError as error:
                    self._answer(some, error)
                else:
                    for activity in seen:
                        self._known.pop(activity.instance, None)
                        self._known[activity.instance] = (asked_at, activity)
                    self._answer(some, None)
                self._forget()

    async def of(self, instance: str) -> Activity:
        """Return an instance's activity.

        Raises:
            LairError: Ceryx does not answer.
        """
        known = self._known.get(instance)
        if known is not None and self._clock() - known[0] < KEPT:
            return known[1]
        asked = self._asked.get(instance)
        if asked is None:
            asked = self._asked[instance] = asyncio.get_running_loop().create_future()
            self._wanted.set()
        return await asyncio.shield(asked)

    def _answer(self, some: dict[str, asyncio.Future[Activity]], error: LairError | None) -> None:
        for instance, asked in some.items():
            del self._asked[instance]
            if error is None:
                asked.set_result(self._known[instance][1])
            else:
                asked.set_exception(error)
                asked.exception()  # whoever asked may be gone

    def _forget(self) -> None:
        now = self._clock()
        while self._known:
            instance, (at, _) = next(iter(self._known.items()))
            if now - at < KEPT:
                return
            del self._known[instance]
