"""What changes, and who waits for that: every wait ends by looking again."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Interrupted(Exception):
    """What somebody was waiting for does not matter any more."""


class Changes:
    """Something that changes now and then."""

    def __init__(self) -> None:
        self._changed: asyncio.Event | None = None
        """Of those who wait; an event takes a kilobyte, and of ten thousand servers hardly any has one who waits."""
        self._over = False

    def end(self) -> None:
        """Nothing changes any more: nobody is to wait."""
        self._over = True
        Changes.notify(self)

    def notify(self) -> None:
        """Make everybody look again who waits."""
        changed, self._changed = self._changed, None
        if changed is not None:
            changed.set()

    def _change(self) -> asyncio.Event:
        if self._changed is None:
            self._changed = asyncio.Event()
        return self._changed

    async def change(self, deadline: float | None = None) -> bool:
        """Wait until something changes.

        Args:
            deadline: of the loop's clock, if there is one.

        Returns:
            False at the deadline, or where nothing changes any more.
        """
        changed = self._change()
        try:
            async with asyncio.timeout_at(deadline if not self._over else 0.0):
                await changed.wait()
        except TimeoutError:
            return False
        return not self._over

    async def race(self, work: Coroutine[Any, Any, T], interrupted: Callable[[], bool]) -> T:
        """Return the work's result.

        Raises:
            Interrupted: that became true before; the work was cancelled.
        """
        task = asyncio.ensure_future(work)
        try:
            while not task.done():
                if interrupted():
                    raise Interrupted
                changed = asyncio.ensure_future(self._change().wait())
                try:
                    await asyncio.wait({task, changed}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    changed.cancel()
            return task.result()
        finally:
            if not task.done():
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await task
