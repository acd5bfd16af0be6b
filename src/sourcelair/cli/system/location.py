"""Where a service answers, when that may change: another process takes over, on another machine even."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sourcelair.errors import Unreachable


class Location:
    """Where one service answers. What is asked of the old place is given up when it moves: nobody may be there.

    Args:
        name: of the service, for messages.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.url: str | None = None
        """Such as `http://10.0.0.5:7070`; None while nobody acts for it."""
        self._calls = set[asyncio.Timeout]()

    def move(self, url: str | None) -> None:
        """Say where it answers from now on; None for nowhere."""
        if url == self.url:
            return
        self.url = url
        now = asyncio.get_running_loop().time()
        for call in self._calls:
            if not call.expired():
                call.reschedule(now)

    @asynccontextmanager
    async def steady(self) -> AsyncIterator[str]:
        """Give the place, for a call of the current task that ends when it moves.

        Raises:
            Unreachable: nobody acts for the service, or it moved meanwhile.
        """
        url = self.url
        if url is None:
            raise Unreachable(f"No process acts for {self.name} right now.", retry_after=1)
        scope = asyncio.timeout(None)
        try:
            async with scope:
                self._calls.add(scope)
                yield url
        except TimeoutError as error:
            if not scope.expired():
                raise
            raise Unreachable(f"{self.name} has moved from {url}.", retry_after=1) from error
        finally:
            self._calls.discard(scope)
