"""Names in targets and wakers: looked up in threads, a few at a time, and again while they are in use.

NGINX's balancer takes addresses only. A name that has no address (yet) is no error: its visitors are told.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from sourcelair.telemetry import get_logger

_log = get_logger(__name__)

AT_ONCE = 8
"""Look-ups at once; each may take as long as the system's resolver waits."""

FIRST_RETRY = 1.0
"""Seconds until a name that could not be looked up is tried again; doubled each time, up to the usual interval."""

PATIENCE = 0.5
"""Seconds that a write of a route is reported late while its target's name is looked up for the first time."""

Lookup = Callable[[str], Sequence[str]]


class NoAddress(Exception):
    """The name does not exist, or has no address."""


def system_lookup(host: str) -> Sequence[str]:
    """Return a name's addresses, IPv4 first.

    Raises:
        NoAddress: it has none.
        OSError: nobody could say now.
    """
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        if error.errno in {socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)}:
            raise NoAddress(host) from error
        raise
    except UnicodeError as error:
        raise NoAddress(host) from error
    found.sort(key=lambda item: item[0] != socket.AF_INET)
    return list(dict.fromkeys(str(item[4][0]) for item in found))


@dataclass(frozen=True, slots=True)
class Resolution:
    """What the last look-up of a name gave: an address, or the problem in words for a visitor."""

    address: str | None
    problem: str | None


class Resolver:
    """The names that are in use.

    Args:
        interval: seconds between look-ups of a name.
        lookup: asks the system; tests bring their own.
    """

    def __init__(self, interval: float, lookup: Lookup = system_lookup) -> None:
        self.answers: dict[str, Resolution] = {}
        self.on_answer: Callable[[str], None] = lambda _: None
        self._interval = interval
        self._lookup = lookup
        self._used: set[str] = set()
        self._queue: asyncio.Queue[str] = asyncio.Queue()
        self._queued: set[str] = set()
        self._first: dict[str, tuple[int, float]] = {}
        self._failures: dict[str, int] = {}
        self._retries: dict[str, asyncio.TimerHandle] = {}

    def use(self, host: str, revision: int) -> None:
        """Keep a name looked up; `revision` is the route's that names it."""
        if host in self._used:
            return
        self._used.add(host)
        self._first[host] = (revision, time.monotonic() + PATIENCE)
        self._enqueue(host)

    def drop(self, host: str) -> None:
        """No route names it any more."""
        self._used.discard(host)
        self._first.pop(host, None)
        self.answers.pop(host, None)
        self._settle(host)

    def reportable(self, applied: int) -> int:
        """Return the revision to report: a write's answer waits a little for the first look-up of its target."""
        now = time.monotonic()
        held = [revision - 1 for revision, until in self._first.values() if until > now]
        return min([applied, *held])

    def _enqueue(self, host: str) -> None:
        if host not in self._queued:
            self._queued.add(host)
            self._queue.put_nowait(host)

    async def run(self) -> None:
        """Look names up, for ever."""
        with_threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="lair-resolve")
        try:
            async with asyncio.TaskGroup() as tasks:
                for _ in range(AT_ONCE):
                    tasks.create_task(self._work(with_threads))
                tasks.create_task(self._refresh())
        finally:
            for host in list(self._retries):
                self._settle(host)
            with_threads.shutdown(wait=False, cancel_futures=True)

    def _retry(self, host: str) -> None:
        """Look a name up again before its time: it may be there in a moment, such as a container that starts."""
        failures = self._failures[host] = self._failures.get(host, 0) + 1
        pause = min(FIRST_RETRY * 2 ** min(failures - 1, 16), self._interval)
        if (timer := self._retries.pop(host, None)) is not None:
            timer.cancel()
        self._retries[host] = asyncio.get_running_loop().call_later(pause, self._enqueue, host)

    def _settle(self, host: str) -> None:
        self._failures.pop(host, None)
        if (timer := self._retries.pop(host, None)) is not None:
            timer.cancel()

    async def _refresh(self) -> None:
        while True:
            await asyncio.sleep(self._interval)
            for host in self._used:
                self._enqueue(host)

    async def _work(self, threads: ThreadPoolExecutor) -> None:
        loop = asyncio.get_running_loop()
        while True:
            host = await self._queue.get()
            self._queued.discard(host)
            if host not in self._used:
                continue
            before, failed = self.answers.get(host), False
            try:
                addresses = await loop.run_in_executor(threads, self._lookup, host)
                answer = _choose(host, addresses, before)
            except NoAddress:
                answer = Resolution(None, f"The name {host} does not exist, or has no address.")
            except OSError as error:
                answer = before or Resolution(None, f"The name {host} can't be looked up now: {error.strerror}.")
                failed = True
                if host not in self._failures:
                    _log.warning("lookup_failed", host=host, error=str(error))
            if host not in self._used:
                continue
            if failed or answer.address is None:
                self._retry(host)
            else:
                self._settle(host)
            self._first.pop(host, None)
            if answer != before:
                self.answers[host] = answer
            # Also where nothing changed: a report may have been waiting for this look-up.
            self.on_answer(host)


def _choose(host: str, addresses: Sequence[str], before: Resolution | None) -> Resolution:
    """Stay with the address that is in use while the name still has it."""
    if not addresses:
        return Resolution(None, f"The name {host} has no address.")
    if before is not None and before.address in addresses:
        return before
    return Resolution(addresses[0], None)
