"""Letting the store's threads run while the event loop is busy.

A thread of Python needs the interpreter's lock, and a saturated event loop gives it away for microseconds at a time:
when it polls its sockets. A thread that was asleep is too late for that every time, and each try restarts the 5 ms
after which it could insist (`take_gil` in CPython 3.11). With a loop that was busy in slices of 0.1 to 4 ms, single
writes took up to 20 s (measured). So when nothing was finished for a while, the loop steps aside.
"""

from __future__ import annotations

import asyncio
import time

PATIENCE = 0.002
"""Seconds without progress after which the loop steps aside, again and again: more than a usual write takes."""

TURN = 0.0002
"""Seconds that it steps aside: enough for a thread to wake up and do a statement or a few."""


class Turns:
    """Counts what the loop waits for, and steps aside when none of it gets on."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting = 0
        self._finished = 0
        self._seen = 0
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> None:
        self._waiting += 1
        if self._timer is None:
            self._seen = self._finished
            self._timer = self._loop.call_later(PATIENCE, self._check)

    def __exit__(self, *_: object) -> None:
        self._waiting -= 1
        self._finished += 1

    def close(self) -> None:
        """Stop checking."""
        if self._timer is not None:
            self._timer.cancel()

    def _check(self) -> None:
        self._timer = None
        if not self._waiting:
            return
        if self._finished == self._seen:
            time.sleep(TURN)  # on purpose: this gives the interpreter's lock away for long enough
        self._seen = self._finished
        self._timer = self._loop.call_later(PATIENCE, self._check)
