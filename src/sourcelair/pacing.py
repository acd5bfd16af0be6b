"""Long work in steps: all services may share one event loop, and none may keep it for long."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Iterable
from typing import TypeVar

STEP = 250
"""Items that are worked on before the event loop gets its turn: a few milliseconds."""

T = TypeVar("T")


async def in_steps(items: Iterable[T], step: int = STEP) -> AsyncIterator[T]:
    """Give items one by one, with a pause after every `step` of them in which others get their turn."""
    for at, item in enumerate(items, 1):
        yield item
        if at % step == 0:
            await asyncio.sleep(0)


def keep() -> None:
    """Tell Python that the many objects that were just made stay: a look at all of them for cycles takes a second.

    A cycle that nobody has any more at this moment stays as well: so this is for who has made tens of thousands.
    """
    gc.collect(1)
    gc.freeze()
