"""Following the API: register, snapshot, watch. After any doubt another snapshot, of which the difference counts."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

from sourcelair.ceryx.agent.journal import Journal
from sourcelair.ceryx.agent.table import NodeTable
from sourcelair.client.ceryx import CeryxClient, RouteChange, RouteChanges
from sourcelair.errors import HistoryCompacted, LairError
from sourcelair.pacing import in_steps
from sourcelair.telemetry import get_logger

_log = get_logger(__name__)

SILENCE = 45.0
"""Seconds without a byte, keep-alives included, after which a stream counts as broken."""

FIRST_PAUSE, LONGEST_PAUSE = 0.05, 1.0
"""Seconds between attempts: the first, and the longest after doubling."""


class Feed:
    """The routes of the API, as they come.

    Args:
        ceryx: the API.
        node: this node's name.
        table: takes the routes.
        journal: is void when the registration it belongs to is gone.
    """

    def __init__(self, ceryx: CeryxClient, node: str, table: NodeTable, journal: Journal) -> None:
        self.tried = asyncio.Event()
        """Set once the first attempt has ended, well or not."""
        self.on_snapshot: Callable[[], None] = lambda: None
        self._ceryx = ceryx
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
        """Follow the API, for ever."""
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
            except LairError as error:
                if not self._down:
                    _log.warning("api_down", node=self._node, error=error.detail)
                self._down = True
            finally:
                self.tried.set()
            pause = FIRST_PAUSE if self._table.revision > revision else min(pause * 2, LONGEST_PAUSE)
            await asyncio.sleep(pause)

    async def _follow(self) -> None:
        node = await self._ceryx.register_node(self._node)
        if not self._journal.note_registered(node.registered_revision):
            _log.warning("registered_anew", node=self._node)
            self._void()
            self._journal.note_registered(node.registered_revision)
        if self._doubt:
            async with self._ceryx.routes(SILENCE) as (routes, revision):
                number = await self._table.snapshot(routes, revision)
            self._doubt = False
            if self.voided:
                self.voided = False
                self._journal.begin_again()
            _log.info("snapshot_taken", node=self._node, routes=number, revision=revision)
            self.on_snapshot()
        params = {"watch": "true", "from": self._table.revision + 1}
        async with self._ceryx.events("/api/routes/", params=params, silence=SILENCE) as events:
            self._down = False
            async for event in events:
                if event.event == "error":
                    raise HistoryCompacted(event.data)
                if event.event == "changes":
                    await self._change(event.json())

    async def _change(self, event: dict[str, Any]) -> None:
        changes = list[RouteChange]()
        async for change in in_steps(event["changes"]):
            changes.append(RouteChange(**change))
        await self._table.change(RouteChanges(revision=event["revision"], changes=changes))
