"""What NGINX really holds, read back: what the agent knows of, and what it has never heard of."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from sourcelair.ceryx.agent.batches import BATCH, batches
from sourcelair.ceryx.table import TableControl, TableEntry
from sourcelair.telemetry import get_logger

_log = get_logger(__name__)

WIDER = 8
"""How many times more of the table is looked through at once when the last time around did not show all of it."""


async def read_back(control: TableControl, one: asyncio.Lock, sources: Sequence[str], routes: int) -> list[TableEntry]:
    """Return what NGINX holds.

    Args:
        control: the way into it.
        one: is held during each call.
        sources: that are known.
        routes: how many NGINX holds. Where those of the sources are fewer, all of its table is gone through.

    Raises:
        EngineGone: no answer.
    """
    found = await _read(control, one, sources)
    if (missing := routes - _living(found)) > 0:
        unknown = await _find_unknown(control, one, set(sources), missing)
        _log.warning(
            "unknown_routes_found",
            routes=_living(unknown),
            of=missing,
            effect="those that the API does not name are deleted",
        )
        found += unknown
    return found


async def _read(control: TableControl, one: asyncio.Lock, sources: Sequence[str]) -> list[TableEntry]:
    found = list[TableEntry]()
    for batch in batches(sources):
        async with one:
            found += [entry for entry in await control.read(batch) if entry is not None]
    return found


async def _find_unknown(control: TableControl, one: asyncio.Lock, known: set[str], missing: int) -> list[TableEntry]:
    """Return what has none of the known sources, to which all others are added.

    An agent that is killed after it wrote down a deletion, and before it told NGINX, leaves such routes.
    """
    found, most, passed = list[TableEntry](), BATCH, set[str]()
    while missing > 0:
        async with one:
            oldest = await control.oldest(most)
        entries = await _read(control, one, [source for source in oldest if source not in known])
        known.update(oldest)
        found += entries
        missing -= _living(entries)
        if len(oldest) < most:  # that was the whole table
            break
        if not passed.isdisjoint(oldest):  # once around; what is left is visited all the time, and never the oldest
            most *= WIDER
            passed.clear()
        passed.update(oldest)
    return found


def _living(entries: Sequence[TableEntry]) -> int:
    return sum(entry.state != "deleted" for entry in entries)
