"""Logs of servers that start, for their pages: one follower per server, however many pages there are."""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

from sourcelair.client.servers import Server, ServersClient
from sourcelair.errors import LairError
from sourcelair.telemetry import get_logger

_log = get_logger(__name__)

MOST_LINES, MOST_OF_A_LINE = 200, 500
"""Lines that are kept of a start, and characters of each."""

PACE = 0.1
"""Seconds between two readings of a log: one that is written fast must not fill the pages' streams."""

AGAIN = 1.0
"""Seconds until a log is followed again that could not be."""

# No part of it goes past the next escape: then the time that it takes grows with the line, and not with its square.
_CONTROLS = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|[\x00-\x08\x0b-\x1f\x7f]")


class StartLog:
    """What one start has said so far. `run` names it; `count` is the number of lines that there were."""

    def __init__(self) -> None:
        self.run = ""
        self.count = 0
        self.lines: deque[str] = deque(maxlen=MOST_LINES)
        self.changed = asyncio.Event()
        self.watchers = 0
        self.task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Take what comes as another start's."""
        self.run, self.count = secrets.token_hex(4), 0
        self.lines.clear()

    def add(self, lines: list[str]) -> None:
        """Add lines, and tell whoever waits."""
        self.count += len(lines)
        self.lines.extend(_CONTROLS.sub("", line)[:MOST_OF_A_LINE] for line in lines)
        changed, self.changed = self.changed, asyncio.Event()
        changed.set()

    def since(self, run: str, count: int) -> dict[str, Any] | None:
        """Return what came after so many lines of a run, for a page; None for nothing."""
        first = self.count - len(self.lines)
        begin = max(first, count) if run == self.run else first
        if begin >= self.count:
            return None
        return {"run": self.run, "first": begin, "lines": list(self.lines)[begin - first :]}


class StartLogs:
    """All logs that pages follow.

    Args:
        servers: the SourceLair API.
        spawn: runs a coroutine as a task of the service.
    """

    def __init__(
        self, servers: ServersClient, spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]
    ) -> None:
        self._servers = servers
        self._spawn = spawn
        self._logs: dict[str, StartLog] = {}

    @contextlib.contextmanager
    def watch(self, server: Server) -> Iterator[StartLog]:
        """Follow the log of the instance that a server has, for as long as anybody does so."""
        instance = server.instance.id if server.instance else ""
        log = self._logs.get(instance)
        if log is None:
            log = self._logs[instance] = StartLog()
            log.task = self._spawn(self._follow(server.owner, server.project, log))
        log.watchers += 1
        try:
            yield log
        finally:
            log.watchers -= 1
            if not log.watchers:
                del self._logs[instance]
                if log.task is not None:
                    log.task.cancel()

    async def _follow(self, owner: str, project: str, log: StartLog) -> None:
        while True:
            log.begin()
            try:
                await self._read(owner, project, log)
            except LairError as error:
                _log.debug("start_log_broke", server=f"{owner}/{project}", error=error.detail)
            await asyncio.sleep(AGAIN)

    async def _read(self, owner: str, project: str, log: StartLog) -> None:
        rest = b""
        parts = self._servers.follow_logs(owner, project, lines=MOST_LINES, newest=True)
        async with contextlib.aclosing(parts):
            async for part in parts:
                *lines, rest = (rest + part).split(b"\n")
                rest = rest[-MOST_OF_A_LINE * 4 :]  # a program that writes no ends of lines
                if lines:
                    log.add([line.decode(errors="replace") for line in lines[-MOST_LINES:]])
                await asyncio.sleep(PACE)
