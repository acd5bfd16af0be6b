"""Callers that come together: what comes while one call is under way waits for its end, and then goes in one."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from sourcelair.errors import LairError, Unavailable
from sourcelair.store.etcd.cluster import PATIENCE, closed

Answer = TypeVar("Answer")


def _future() -> asyncio.Future[Answer]:
    return asyncio.get_running_loop().create_future()


def _now() -> float:
    return asyncio.get_running_loop().time()


@dataclass(slots=True)
class Asked(Generic[Answer]):
    """What somebody asked for, and when. `answer` is done early where the caller was cancelled."""

    answer: asyncio.Future[Answer] = field(default_factory=_future, init=False)
    since: float = field(default_factory=_now, init=False)

    def settle(self, found: Answer) -> None:
        """Answer."""
        if not self.answer.done():
            self.answer.set_result(found)

    def refuse(self, error: Exception) -> None:
        """Answer with an error; others may get the same."""
        if not self.answer.done():
            self.answer.set_exception(error.another() if isinstance(error, LairError) else error)


T = TypeVar("T", bound=Asked[Any])


class Together(Generic[T]):
    """A queue, and the one task that works on it while there is something.

    Args:
        name: of the task.
        send: takes as much of `waiting` as fits into one call, makes it, and answers all callers, with errors too.
    """

    def __init__(self, name: str, send: Callable[[], Awaitable[None]]) -> None:
        self.waiting = deque[T]()
        self._name = name
        self._send = send
        self._work: asyncio.Task[None] | None = None
        self._closed = False

    def add(self, asked: T) -> None:
        """Put it in the queue. Raises Unavailable: the store is closed."""
        if self._closed:
            raise closed()
        self.waiting.append(asked)
        if self._work is None:
            self._work = asyncio.create_task(self._send_all(), name=self._name)

    def refuse_overdue(self, error: Unavailable) -> None:
        """Refuse those who have waited as long as anybody has to: etcd was asked for all of that time."""
        while self.waiting and self.waiting[0].since + PATIENCE <= _now():
            self.waiting.popleft().refuse(error)

    async def finish(self) -> None:
        """Take no more, and wait until all are answered that were asked for."""
        self._closed = True
        while self._work is not None:
            await asyncio.wait([self._work])

    async def _send_all(self) -> None:
        try:
            while self.waiting:
                await self._send()
        finally:
            self._work = None
            while self.waiting:  # the event loop ends
                self.waiting.popleft().refuse(closed())
