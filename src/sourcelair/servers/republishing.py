"""Writing routes again whose settings have to change, many at once; where they lead stays as it is.

A worker's own writes come first in every way: what is written here has the target that the worker published last, takes
turns with it, and is given up at once where it can't be written, to be tried again later.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

from sourcelair.errors import LairError, Unreachable
from sourcelair.servers.worker import Worker
from sourcelair.telemetry import get_logger

_log = get_logger(__name__)

AT_ONCE = 50
"""Servers whose routes are written in one transaction: a start among them waits for that."""

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 10.0
"""Seconds until what could not be written is tried again."""


async def republish(workers: Sequence[Worker]) -> None:
    """Write the routes of these servers again where their settings have to change, however often it takes."""
    pending, pause = list(workers), FIRST_PAUSE
    while pending:
        left: list[Worker] = []
        for at in range(0, len(pending), AT_ONCE):
            left += await _try(pending[at : at + AT_ONCE])
            await asyncio.sleep(0)
        pending = left
        if pending:
            _log.warning("route_settings_not_written", servers=[worker.record.name for worker in pending[:5]])
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE)


async def _try(some: Sequence[Worker]) -> Sequence[Worker]:
    """Write some together, else one by one; returns those that could not be written."""
    try:
        await _write(some)
    except Unreachable:
        return some
    except LairError:
        if len(some) == 1:
            return some
        return [left for worker in some for left in await _try([worker])]
    return ()


async def _write(some: Sequence[Worker]) -> None:
    async with contextlib.AsyncExitStack() as stack:
        for worker in some:  # nobody else holds two of these: whoever has one lets it go again
            await stack.enter_async_context(worker.publishing)
        due = [(worker, settings) for worker in some if (settings := worker.settings_due()) is not None]
        if not due:
            return
        publisher = some[0].context.publisher
        routes = [(host, worker.published, settings) for worker, settings in due for host in worker.hosts]
        revision = await publisher.publish_all(routes, insist=False)
        for worker, settings in due:
            worker.routed = settings
            # In memory alone: they lead where they led before, so what is stored is as true as it was.
            worker.record.route_revision = max(revision, worker.record.route_revision or 0)
