"""Waking: one start per server however many ask, and the outcome in the words of the waker contract."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from sourcelair.client.servers import Server, ServersClient, StartRequest
from sourcelair.client.waker import WakeRequest, WakeResult
from sourcelair.errors import Conflict, LairError, NotFound, Unavailable
from sourcelair.hemera import metrics
from sourcelair.hemera.directory import Directory
from sourcelair.hemera.rates import Rates, source_of
from sourcelair.settings import Settings
from sourcelair.telemetry import get_logger
from sourcelair.turns import LONGEST_TURN, QueueFull, Turns

_log = get_logger(__name__)

LONGEST_POLL = 25.0
"""Seconds that one wake request is held: less than proxies wait for their wakers."""

QUEUE_FULL_PAUSE = 5.0
"""Seconds after which to ask again where no more may wait."""

PLACES_PAUSE = 0.25
"""Seconds between two times at which those who wait are told their places."""

Key = tuple[str, str, str | None, int | None]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a wake ended: `status` and `state` are answered, with either a result or a problem's words.

    `place` is that of one who waits for its turn; 1 is the next.
    """

    status: int
    state: str
    result: WakeResult | None = None
    detail: str = ""
    retry_after: float | None = None
    place: int | None = None
    extra: dict[str, Any] = field(default_factory=dict)


class Waker:
    """Wakes servers.

    A start takes its turn, of which there are a few at once, and counts for the rates. What is awake, or only dozes,
    or is on its way already, is asked for past all that.

    Args:
        settings: `max_starting`, `wake_queue`, `starts_per_minute` and what is beside them.
        servers: the SourceLair API.
        directory: knows which server answers at a host.
        spawn: runs a coroutine as a task of the service.
    """

    def __init__(
        self,
        settings: Settings,
        servers: ServersClient,
        directory: Directory,
        spawn: Callable[[Coroutine[Any, Any, Outcome]], asyncio.Task[Outcome]],
    ) -> None:
        self._servers = servers
        self._directory = directory
        self._spawn = spawn
        self._calls: dict[Key, asyncio.Task[Outcome]] = {}
        self._telling: asyncio.TimerHandle | None = None
        self.rates = Rates(
            settings.starts_per_minute, settings.starts_per_minute_per_owner, settings.starts_per_minute_per_address
        )
        self.turns = Turns(
            settings.max_starting,
            per_owner=settings.max_starting_per_owner,
            queue=settings.wake_queue,
            queue_per_owner=settings.wake_queue_per_owner,
            rate=self.rates,
            changed=self._places_changed,
        )

    def place(self, server: Server) -> int | None:
        """Return a server's place among those that wait for their turn to start; 1 is the next, None: it does not."""
        return self.turns.place((server.owner, server.project))

    async def wake(self, request: WakeRequest, *, wait: float = LONGEST_POLL) -> Outcome:
        """Wake the server of a host; the answer comes when it is awake, or after `wait` seconds.

        Where the SourceLair API does not answer it is 502, never 503: that would mean that the start failed.
        """
        try:
            server = await self._directory.find(request.source)
        except LairError as error:
            return Outcome(502, "starting", detail=error.detail)
        if server is None:
            return Outcome(404, "unknown-host", detail=f"No server answers at {request.source}.")
        failed = (request.instance, request.revision) if request.reason == "unreachable" else (None, None)
        key = (server.owner, server.project, *failed)
        call = self._calls.get(key)
        if call is None:
            starts, source = is_a_start(server, time.time()), source_of(request.address)
            if starts and source is not None:
                left = self.rates.addresses.wait(source)
                if left > 0:
                    return _too_many(left)
                self.rates.addresses.take(source)
            call = self._calls[key] = self._spawn(self._call(server, request, source, starts=starts))
            call.add_done_callback(lambda _: self._calls.pop(key, None))
        try:
            async with asyncio.timeout(wait):
                return await asyncio.shield(call)
        except TimeoutError:
            place = self.place(server)
            return Outcome(202, "starting" if place is None else "queued", retry_after=1, place=place)
        except asyncio.CancelledError:
            if not call.cancelled():
                raise
            return Outcome(202, "starting", retry_after=1)  # Hemera ends; whoever asks again finds the next one

    async def _call(self, server: Server, request: WakeRequest, source: str | None, *, starts: bool) -> Outcome:
        asked = time.monotonic()
        start = StartRequest(cause=f"a visit to {request.source}"[:200], since=request.since)
        if request.reason == "unreachable":
            start = StartRequest(
                cause="unreachable", failed_instance=request.instance, failed_revision=request.revision
            )
        if starts:
            outcome = await self._in_turn(server, start, source)
        else:
            outcome, _ = await self._start(server, start)
        if outcome.status == 200:
            metrics.TIME_TO_ANSWER.observe(time.monotonic() - asked)
        metrics.WAKES.labels(outcome.state).inc()
        return outcome

    async def _in_turn(self, server: Server, start: StartRequest, source: str | None) -> Outcome:
        short = self.rates.short_of(server.owner)
        if short is not None:
            metrics.RATE_LIMITED.labels(short).inc()
        started = False
        try:
            async with self.turns.take(server.owner, (server.owner, server.project)) as turn:
                turn.end_after(LONGEST_TURN)
                outcome, started = await self._start(server, start)
                if not started:
                    turn.give_back()
        except QueueFull:
            outcome = Outcome(202, "queued", retry_after=QUEUE_FULL_PAUSE)
        if not started and source is not None:
            self.rates.addresses.give_back(source)
        return outcome

    async def _start(self, server: Server, start: StartRequest) -> tuple[Outcome, bool]:
        """Ask the API to start it. Returns how that went, and whether anything may have been started."""
        try:
            now = await self._servers.start(server.owner, server.project, start, wait=LONGEST_POLL - 5)
        except Conflict as error:
            return Outcome(403, str(error.extra.get("state", "disabled")), detail=error.detail), False
        except NotFound as error:
            return Outcome(404, "unknown-host", detail=error.detail), False
        except Unavailable as error:
            if error.extra.get("state") != "failed":
                return Outcome(202, "starting", retry_after=1), False  # the API itself is just starting
            return _failed(error, server), not error.extra.get("held_back")
        except LairError as error:
            _log.warning("start_not_answered", server=f"{server.owner}/{server.project}", error=error.detail)
            return Outcome(502, "starting", detail=error.detail), False
        if now.state != "awake" or now.instance is None:
            return Outcome(202, "starting", retry_after=1), True
        return Outcome(200, "awake", WakeResult(instance=now.instance.id, revision=now.route_revision or 0)), True

    def _places_changed(self) -> None:
        metrics.WAKE_QUEUE.set(self.turns.waiting)
        if self._telling is None and self.turns.waiting:
            self._telling = asyncio.get_running_loop().call_later(PLACES_PAUSE, self._tell_places)

    def _tell_places(self) -> None:
        self._telling = None
        self._directory.notify(self.turns.places())


def is_a_start(server: Server, now: float) -> bool:
    """Return whether waking this server makes it start: it is neither up, nor on its way, nor held back.

    Args:
        server: as it is known.
        now: Unix seconds.
    """
    if not server.enabled or server.given_up or (server.retry_at or 0.0) > now:
        return False  # the API says so better
    if server.state == "asleep":
        return server.desired != "awake"  # else it has its turn at the API
    return server.state in {"failed", "stopping"}


def _too_many(left: float) -> Outcome:
    metrics.RATE_LIMITED.labels("address").inc()
    metrics.WAKES.labels("rate-limited").inc()
    return Outcome(
        429,
        "rate-limited",
        detail=f"Too many sleeping servers were visited from this address: try again in {math.ceil(left)} s.",
        retry_after=math.ceil(left),
    )


def _failed(error: Unavailable, server: Server) -> Outcome:
    shown = ("log", "retry_at", "given_up") if server.policy.wake.show_log is not False else ("retry_at", "given_up")
    extra: dict[str, Any] = {key: error.extra.get(key) for key in shown}
    retry_at = extra["retry_at"]
    retry_after = None if extra["given_up"] else 5.0 if retry_at is None else max(1.0, retry_at - time.time())
    return Outcome(503, "failed", detail=error.detail, retry_after=retry_after, extra=extra)
