"""Turns for what may run only a few at a time: owners take turns, so that one with many servers delays nobody else.

What is bounded is the burst of work that a start is. One that takes longer than `LONGEST_TURN` mostly waits, maybe for
ever, for something that never comes: it goes on, and its turn is another's.

Who waits may be bounded too, in all and per owner, and so may be the rate at which turns are given: whoever is over
its rate keeps its place among its own, and lets others pass by.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

LONGEST_TURN = 5.0
"""Seconds for which a start keeps its turn."""


Key = tuple[str, str]
"""What a place is asked by: such as an owner and a project."""


class QueueFull(Exception):
    """As many wait already as may wait."""


class Rate(Protocol):
    """How often turns may be given."""

    def wait(self, owner: str) -> float:
        """Return the seconds until this owner may have its next turn; 0 for now."""

    def take(self, owner: str) -> None:
        """Count a turn."""

    def give_back(self, owner: str) -> None:
        """Count one less: the turn was for nothing."""


class Turn:
    """A turn that somebody has. It may end before the work does."""

    def __init__(self, ended: Callable[[], None], wasted: Callable[[], None]) -> None:
        self._ended: Callable[[], None] | None = ended
        self._wasted: Callable[[], None] | None = wasted
        self._timer: asyncio.TimerHandle | None = None

    def end(self) -> None:
        """Let the next one have it. Ending it again does nothing."""
        if self._timer is not None:
            self._timer.cancel()
        ended, self._ended = self._ended, None
        if ended is not None:
            ended()

    def end_after(self, seconds: float) -> None:
        """End it after so many seconds, if nobody does before."""
        self._timer = asyncio.get_running_loop().call_later(seconds, self.end)

    def give_back(self) -> None:
        """Say that it was for nothing: it does not count for the rate. Saying it again does nothing."""
        wasted, self._wasted = self._wasted, None
        if wasted is not None:
            wasted()


@dataclass(slots=True, eq=False)
class _Waiting:
    """Somebody who waits; `key` is what its place is asked by."""

    key: Key | None
    turn: asyncio.Future[None]


class Turns:
    """A bounded number of turns.

    Args:
        most: turns that may be taken at once.
        per_owner: of those, by one owner; None for no bound of its own.
        queue: how many may wait; None for any number.
        queue_per_owner: of those, of one owner.
        rate: how often turns may be given; None for as often as there are some.
        changed: called when the places of those who wait may have changed.
    """

    def __init__(
        self,
        most: int,
        *,
        per_owner: int | None = None,
        queue: int | None = None,
        queue_per_owner: int | None = None,
        rate: Rate | None = None,
        changed: Callable[[], None] | None = None,
    ) -> None:
        self._most = most
        self._per_owner = math.inf if per_owner is None else per_owner
        self._queue = math.inf if queue is None else queue
        self._queue_per_owner = math.inf if queue_per_owner is None else queue_per_owner
        self._rate = rate
        self._changed = changed
        self._taken = Counter[str]()
        """Turns that are taken, by owner."""
        self._queues: dict[str, deque[_Waiting]] = {}
        """Who waits, by owner; the owner whose turn is next comes first."""
        self._places: dict[Key, int] | None = {}
        """Everybody's place; None: they must be counted again."""
        self._timer: asyncio.TimerHandle | None = None
        """Goes off when the rate allows a turn that could be given now."""
        self.waiting = 0
        """How many wait."""

    def place(self, key: Key) -> int | None:
        """Return the place of one who waits: 1 is the next. None: it does not wait.

        It is the order in which turns are given while every owner may have one. Where owners are over their rate,
        all others come first.
        """
        return self.places().get(key)

    def places(self) -> dict[Key, int]:
        """Return the places of all who wait by a key. They are counted once after every change."""
        if self._places is None:
            self._places = self._count()
        return self._places

    @property
    def free(self) -> bool:
        """Return whether a turn is given at once, but for the bounds of its owner and the rate."""
        return self._taken.total() < self._most and not self._queues

    @asynccontextmanager
    async def take(self, owner: str, key: Key | None = None) -> AsyncIterator[Turn]:
        """Wait for a turn, and have it until it is ended, or this is left.

        Args:
            owner: whose turn it is.
            key: what its place can be asked by.

        Raises:
            QueueFull: as many wait already as may.
        """
        await self._enter(owner, key)
        turn = Turn(lambda: self._end(owner), lambda: self._give_back(owner))
        try:
            yield turn
        finally:
            turn.end()

    async def _enter(self, owner: str, key: Key | None) -> None:
        queue = self._queues.setdefault(owner, deque())
        waiting = _Waiting(key, asyncio.get_running_loop().create_future())
        queue.append(waiting)
        self.waiting += 1
        self._give()
        if waiting.turn.done():
            return
        if self.waiting > self._queue or len(queue) > self._queue_per_owner:
            self._leave(owner, waiting)
            raise QueueFull
        self._moved()
        try:
            await waiting.turn
        except asyncio.CancelledError:
            if waiting.turn.done() and not waiting.turn.cancelled():
                self._give_back(owner)
                self._end(owner)
            else:
                self._leave(owner, waiting)
                self._moved()
            raise

    def _leave(self, owner: str, waiting: _Waiting) -> None:
        queue = self._queues.get(owner)
        if queue is not None and waiting in queue:
            queue.remove(waiting)
            self.waiting -= 1
            if not queue:
                del self._queues[owner]

    def _end(self, owner: str) -> None:
        self._taken[owner] -= 1
        if not self._taken[owner]:
            del self._taken[owner]
        self._give()

    def _give_back(self, owner: str) -> None:
        if self._rate is not None:
            self._rate.give_back(owner)
            self._give()

    def _give(self) -> None:
        """Give all turns that can be given now."""
        while self._taken.total() < self._most:
            owner, soonest = self._next()
            if owner is None:
                self._give_in(soonest)
                return
            queue = self._queues.pop(owner)
            waiting = queue.popleft()
            self.waiting -= 1
            if queue:
                self._queues[owner] = queue  # behind the others
            if not waiting.turn.done():
                self._taken[owner] += 1
                if self._rate is not None:
                    self._rate.take(owner)
                waiting.turn.set_result(None)
            self._moved()

    def _next(self) -> tuple[str | None, float]:
        """Return the owner whose turn it is; where there is none, in how many seconds the rate allows the next."""
        soonest = math.inf
        for owner in self._queues:
            if self._taken[owner] >= self._per_owner:
                continue
            left = self._held(owner)
            if left <= 0:
                return owner, 0.0
            soonest = min(soonest, left)
        return None, soonest

    def _held(self, owner: str) -> float:
        return 0.0 if self._rate is None else self._rate.wait(owner)

    def _give_in(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if seconds < math.inf:
            self._timer = asyncio.get_running_loop().call_later(seconds, self._give)

    def _moved(self) -> None:
        self._places = None
        if self._changed is not None:
            self._changed()

    def _count(self) -> dict[Key, int]:
        places: dict[Key, int] = {}
        now = [owner for owner in self._queues if self._held(owner) <= 0]
        later = [owner for owner in self._queues if self._held(owner) > 0]
        place = 0
        for owners in (now, later):
            rounds = [iter(self._queues[owner]) for owner in owners]
            while rounds:
                left = []
                for queue in rounds:
                    waiting = next(queue, None)
                    if waiting is not None:
                        place += 1
                        left.append(queue)
                        if waiting.key is not None:
                            places.setdefault(waiting.key, place)
                rounds = left
        return places
