"""Long JSON arrays, taken apart in steps: all services may share one event loop."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

STEP = 250
"""Items of a long list that are encoded or decoded before the event loop gets its turn: a few milliseconds."""

_DECODER = json.JSONDecoder()
_BETWEEN = " \t\r\n,"


async def decode_array(text: str) -> AsyncIterator[Any]:
    """Give the items of a JSON array one by one, with pauses in which others get their turn.

    Raises:
        ValueError: it is no JSON array.
    """
    at = _skip(text, 0)
    if not text.startswith("[", at):
        raise ValueError("not a JSON array")
    at, count = at + 1, 0
    while True:
        at = _skip(text, at)
        if text.startswith("]", at):
            return
        item, at = _DECODER.raw_decode(text, at)
        yield item
        count += 1
        if count % STEP == 0:
            await asyncio.sleep(0)


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at] in _BETWEEN:
        at += 1
    return at
