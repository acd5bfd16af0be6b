"""Turns for what may run only a few at a time: owners take turns, so that one with many servers delays nobody else.

What is bounded is the burst of work that a start is. One that takes longer than `LONGEST_TURN` mostly waits, maybe for
ever, for something that never comes: it goes on, and its turn is another's.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

LONGEST_TURN = 5.0
"""Seconds for which a start keeps its turn."""


class Turn:
    """A turn that somebody has. It may end before the work does."""

    def __init__(self, ended: Callable[[], None]) -> None:
        self._ended: Callable[[], None] | None = ended
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


class Turns:
    """A bounded number of turns.

    Args:
        most: turns that may be taken at once.
    """

    def __init__(self, most: int) -> None:
        self._free = most
        self._queues: dict[str, deque[asyncio.Future[None]]] = {}
        """Who waits, by owner; the owner whose turn is next comes first."""

    @property
    def waiting(self) -> int:
        """How many wait."""
        return sum(len(queue) for queue in self._queues.values())

    @asynccontextmanager
    async def take(self, owner: str) -> AsyncIterator[Turn]:
        """Wait for a turn, and have it until it is ended, or this is left."""
        if self._free > 0 and not self._queues:
            self._free -= 1
        else:
            await self._wait(owner)
        turn = Turn(self._pass_on)
        try:
            yield turn
        finally:
            turn.end()

    async def _wait(self, owner: str) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queues.setdefault(owner, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._pass_on()
            else:
                self._leave(owner, turn)
            raise

    def _leave(self, owner: str, turn: asyncio.Future[None]) -> None:
        queue = self._queues.get(owner)
        if queue is not None and turn in queue:
            queue.remove(turn)
            if not queue:
                del self._queues[owner]

    def _pass_on(self) -> None:
        while self._queues:
            owner = next(iter(self._queues))
            queue = self._queues.pop(owner)
            turn = queue.popleft()
            if queue:
                self._queues[owner] = queue  # behind the others
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1
