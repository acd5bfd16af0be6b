"""Waking: one start per server however many ask, and the outcome in the words of the waker contract."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from sourcelair.client.servers import Server, ServersClient, StartRequest
from sourcelair.client.waker import WakeRequest, WakeResult
from sourcelair.errors import Conflict, LairError, NotFound, Unavailable
from sourcelair.hemera import metrics
from sourcelair.hemera.directory import Directory
from sourcelair.telemetry import get_logger
from sourcelair.turns import LONGEST_TURN, Turns

_log = get_logger(__name__)

LONGEST_POLL = 25.0
"""Seconds that one wake request is held: less than proxies wait for their wakers."""

Key = tuple[str, str, str | None, int | None]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a wake ended: `status` and `state` are answered, with either a result or a problem's words."""

    status: int
    state: str
    result: WakeResult | None = None
    detail: str = ""
    retry_after: float | None = None
    extra: dict[str, Any] = field(default_factory=dict)


class Waker:
    """Wakes servers.

    Args:
        servers: the SourceLair API.
        directory: knows which server answers at a host.
        at_once: starts that may be under way at once.
        spawn: runs a coroutine as a task of the service.
    """

    def __init__(
        self,
        servers: ServersClient,
        directory: Directory,
        at_once: int,
        spawn: Callable[[Coroutine[Any, Any, Outcome]], asyncio.Task[Outcome]],
    ) -> None:
        self._servers = servers
        self._directory = directory
        self._spawn = spawn
        self._calls: dict[Key, asyncio.Task[Outcome]] = {}
        self.turns = Turns(at_once)

    async def wake(self, request: WakeRequest) -> Outcome:
        """Wake the server of a host; the answer comes when it is awake, or after `LONGEST_POLL` seconds.

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
            call = self._calls[key] = self._spawn(self._call(server, request))
            call.add_done_callback(lambda _: self._calls.pop(key, None))
        try:
            async with asyncio.timeout(LONGEST_POLL):
                return await asyncio.shield(call)
        except TimeoutError:
            return Outcome(202, "starting", retry_after=1)
        except asyncio.CancelledError:
            if not call.cancelled():
                raise
            return Outcome(202, "starting", retry_after=1)  # Hemera ends; whoever asks again finds the next one

    def place(self, server: Server) -> int | None:
        """Return which place a server has in the queue, 1 for the next one; None where it does not wait there."""
        return None

    async def _call(self, server: Server, request: WakeRequest) -> Outcome:
        start = StartRequest(cause=f"a visit to {request.source}"[:200], since=request.since)
        if request.reason == "unreachable":
            start = StartRequest(
                cause="unreachable", failed_instance=request.instance, failed_revision=request.revision
            )
        if server.state in {"awake", "draining"}:  # no start is needed, and none may delay it
            outcome = await self._start(server, start)
        else:
            async with self.turns.take(server.owner) as turn:
                turn.end_after(LONGEST_TURN)
                outcome = await self._start(server, start)
        metrics.WAKES.labels(outcome.state if outcome.status != 200 else "awake").inc()
        return outcome

    async def _start(self, server: Server, start: StartRequest) -> Outcome:
        try:
            now = await self._servers.start(server.owner, server.project, start, wait=LONGEST_POLL - 5)
        except Conflict as error:
            return Outcome(403, str(error.extra.get("state", "disabled")), detail=error.detail)
        except NotFound as error:
            return Outcome(404, "unknown-host", detail=error.detail)
        except Unavailable as error:
            if error.extra.get("state") != "failed":
                return Outcome(202, "starting", retry_after=1)  # the API itself is just starting
            shown = ("log", "retry_at") if server.policy.wake.show_log else ("retry_at",)
            extra: dict[str, Any] = {key: error.extra.get(key) for key in shown}
            return Outcome(503, "failed", detail=error.detail, retry_after=5, extra=extra)
        except LairError as error:
            _log.warning("start_not_answered", server=f"{server.owner}/{server.project}", error=error.detail)
            return Outcome(502, "starting", detail=error.detail)
        if now.state != "awake" or now.instance is None:
            return Outcome(202, "starting", retry_after=1)
        return Outcome(200, "awake", WakeResult(instance=now.instance.id, revision=now.route_revision or 0))
