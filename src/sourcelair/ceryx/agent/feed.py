"""Following the routes: register, snapshot, watch. After any doubt another snapshot, of which the difference counts."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from sourcelair.ceryx.agent.journal import Journal
from sourcelair.ceryx.agent.sources import RouteSource
from sourcelair.ceryx.agent.table import NodeTable
from sourcelair.errors import Conflict, HistoryCompacted, LairError
from sourcelair.telemetry import get_logger

_log = get_logger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 0.05, 1.0
"""Seconds between attempts: the first, and the longest after doubling."""


class Feed:
    """All routes, as they come.

    Args:
        source: of the routes.
        node: this node's name.
        table: takes the routes.
        journal: is void when the registration it belongs to is gone.
    """

    def __init__(self, source: RouteSource, node: str, table: NodeTable, journal: Journal) -> None:
        self.tried = asyncio.Event()
        """Set once the first attempt has ended, well or not."""
        self.on_snapshot: Callable[[], None] = lambda: None
        self._source = source
        self._node = node
        self._table = table
        self._journal = journal
        self.voided = False
        """What this node knows belongs to a registration that is gone; the next snapshot ends that."""
        self._doubt = True
        self._scope: asyncio.Timeout | None = None
        self._down = False

    def restart(self) -> None:
        """Register anew, and take a snapshot: this node was removed."""
        self._void()
        if self._scope is not None and not self._scope.expired():
            self._scope.reschedule(asyncio.get_running_loop().time())

    def _void(self) -> None:
        self.voided = True
        self._doubt = True
        self._journal.void()

    async def run(self) -> None:
        """Follow them, for ever.

        Raises:
            Conflict: another node has this name.
        """
        pause = FIRST_PAUSE
        while True:
            revision = self._table.revision
            try:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(None) as scope:
                        self._scope = scope
                        try:
                            await self._follow()
                        finally:
                            self._scope = None
            except HistoryCompacted:
                self._doubt = True
            except Conflict:
                raise
            except LairError as error:
                if not self._down:
                    _log.warning("routes_not_followed", node=self._node, error=error.detail)
                self._down = True
            finally:
                self.tried.set()
            pause = FIRST_PAUSE if self._table.revision > revision else min(pause * 2, LONGEST_PAUSE)
            await asyncio.sleep(pause)

    async def _follow(self) -> None:
        registered = await self._source.register(self._node, self._journal.registered)
        if not self._journal.note_registered(registered):
            _log.warning("registered_anew", node=self._node)
            self._void()
            self._journal.note_registered(registered)
        if self._doubt:
            async with self._source.all() as (routes, revision):
                number = await self._table.snapshot(routes, revision)
            self._doubt = False
            if self.voided:
                self.voided = False
                self._journal.begin_again()
            _log.info("snapshot_taken", node=self._node, routes=number, revision=revision)
            self.on_snapshot()
        async with contextlib.aclosing(self._source.watch(self._table.revision + 1)) as changes:
            async for change in changes:
                self._down = False
                await self._table.change(change)
