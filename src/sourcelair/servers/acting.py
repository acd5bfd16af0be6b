"""Whether this process acts for the servers still: it may have stood still, and another may have followed it."""

from __future__ import annotations

import asyncio

from sourcelair.errors import LairError
from sourcelair.store.base import Store

PAUSE = 0.5
"""Seconds until a store that did not answer is asked again."""


async def until_sure(store: Store) -> None:
    """Return once it is certain that nobody else acted for these servers until now: the store takes our writes.

    Where somebody does, this waits until this process ends, which it is about to.
    """
    while True:
        try:
            await store.transact([], [])
        except LairError:
            await asyncio.sleep(PAUSE)
        else:
            return
