"""When leases run out. Their numbers and keys lie in the tables; their deadlines only here.

A renewal touches no disk: a restart gives every lease its whole time to live anew, which is never too early.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from sourcelair.errors import LairError
from sourcelair.store.base import LeaseNotFound
from sourcelair.telemetry import get_logger

RETRY_SECONDS = 1.0
"""Pause before leases that could not be ended, since the disk was full, are tried again."""

_log = get_logger(__name__)


class Leases:
    """The deadlines of a store's leases, on its event loop.

    Args:
        leases: those of the tables, with their time to live in seconds.
        clock: seconds, from any origin, never going back.
        end: ends a lease in the tables.
    """

    def __init__(
        self, leases: dict[int, float], clock: Callable[[], float], end: Callable[[int], Awaitable[None]]
    ) -> None:
        self._ttl = dict(leases)
        self._clock = clock
        self._end = end
        now = clock()
        self._deadline = {lease: now + ttl for lease, ttl in leases.items()}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._expiring: asyncio.Task[None] | None = None
        self._closed = False
        self._arm()

    def add(self, lease: int, ttl: float) -> None:
        """Begin to count for a new lease."""
        self._ttl[lease] = ttl
        self._deadline[lease] = self._clock() + ttl
        self._arm()

    def renew(self, lease: int) -> None:
        """Start a lease's time anew.

        Raises:
            LeaseNotFound: it has run out.
        """
        deadline = self._deadline.get(lease)
        if deadline is None or deadline <= self._clock():
            raise LeaseNotFound(f"Lease {lease} has run out, or never was.")
        self._deadline[lease] = self._clock() + self._ttl[lease]

    def remove(self, lease: int) -> None:
        """Forget a lease that was ended."""
        self._deadline.pop(lease, None)
        self._ttl.pop(lease, None)

    async def expire(self) -> None:
        """End all leases whose time is over, now. The timer does this by itself; who moves the clock calls it."""
        now = self._clock()
        due = sorted(lease for lease, deadline in self._deadline.items() if deadline <= now)
        for lease in due:
            del self._deadline[lease]  # from here on it can't be renewed
        results = await asyncio.gather(*(self._end(lease) for lease in due), return_exceptions=True)
        for lease, result in zip(due, results, strict=True):
            if isinstance(result, LairError) and not self._closed:
                _log.warning("lease_not_ended", lease=lease, error=result.detail)
                self._deadline[lease] = now  # stays due
            elif isinstance(result, BaseException):
                raise result
            else:
                self._ttl.pop(lease, None)
        self._arm()

    async def close(self) -> None:
        """Stop counting."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._expiring is not None:
            await asyncio.gather(self._expiring, return_exceptions=True)

    def _arm(self) -> None:
        """Set the timer for the earliest deadline. A renewal leaves it: it fires in vain then, and is set anew."""
        if self._closed or not self._deadline or (self._expiring is not None and not self._expiring.done()):
            return
        now = self._clock()
        at = min(self._deadline.values())
        if self._timer is not None and self._timer_at <= at:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = at
        delay = at - now if at > now else RETRY_SECONDS
        self._timer = asyncio.get_running_loop().call_later(delay, self._fire)

    def _fire(self) -> None:
        self._timer = None
        self._expiring = asyncio.get_running_loop().create_task(self._expire_and_arm())

    async def _expire_and_arm(self) -> None:
        await self.expire()
        self._expiring = None
        self._arm()
