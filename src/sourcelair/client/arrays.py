"""Long JSON arrays, taken apart item by item."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterable, Iterator
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


async def decode_pieces(pieces: AsyncIterable[str]) -> AsyncGenerator[Any, None]:
    """Give the items of a JSON array that comes piece by piece, each as soon as it is whole.

    Raises:
        ValueError: it is no JSON array, or ends too early.
    """
    text, at, begun = "", 0, False
    async for piece in pieces:
        text, at = text[at:] + piece, 0
        while (at := _skip(text, at)) < len(text) and text[at] != "]":
            if not begun:
                if text[at] != "[":
                    raise json.JSONDecodeError("not a JSON array", text, at)
                begun, at = True, at + 1
                continue
            try:
                item, end = _DECODER.raw_decode(text, at)
            except ValueError:
                break  # its end is still to come
            if end == len(text):
                break  # a number may go on
            yield item
            at = end
    if not begun or text[at:].strip() != "]":
        raise json.JSONDecodeError("the array has no end", text, at)


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at] in _BETWEEN:
        at += 1
    return at
