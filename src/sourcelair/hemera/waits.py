"""When wakes began: what a page's elapsed time counts from, whenever the page itself was opened."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from sourcelair.client.servers import Server

QUIET = 60.0
"""Seconds without anybody who waits after which the next one is another wake."""


@dataclass
class _Wait:
    since: float
    touched: float


class Waits:
    """The wakes that somebody waits for.

    Args:
        clock: Unix seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._waits: dict[tuple[str, str], _Wait] = {}

    def elapsed(self, server: Server) -> float:
        """Return the seconds since the wake of a server began, for somebody who waits for it.

        A start says itself when it was begun; before that it is when the first visitor came who still waits.
        """
        now, name = self._clock(), (server.owner, server.project)
        wait = self._waits.get(name)
        if wait is None or now - wait.touched > QUIET:
            self._waits = {key: kept for key, kept in self._waits.items() if now - kept.touched <= QUIET}
            wait = self._waits[name] = _Wait(now - (server.policy.wake.patience or 0.0), now)
        if server.state == "starting":
            wait.since = min(wait.since, server.changed_at)
        wait.touched = now
        return max(0.0, now - wait.since)

    def over(self, server: Server) -> None:
        """It is awake, or its start failed: who waits next waits for another wake."""
        self._waits.pop((server.owner, server.project), None)
