"""Long JSON arrays, taken apart item by item."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

_DECODER = json.JSONDecoder()
_BETWEEN = " \t\r\n,"


def decode_array(text: str) -> Iterator[Any]:
    """Give the items of a JSON array one by one, each decoded when it is asked for.

    Raises:
        ValueError: it is no JSON array.
    """
    at = _skip(text, 0)
    if not text.startswith("[", at):
        raise json.JSONDecodeError("not a JSON array", text, at)
    at += 1
    while True:
        at = _skip(text, at)
        if text.startswith("]", at):
            return
        item, at = _DECODER.raw_decode(text, at)
        yield item


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at] in _BETWEEN:
        at += 1
    return at
