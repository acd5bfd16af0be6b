"""What every store takes and refuses, the same in all implementations: keys, values, whole transactions."""

from __future__ import annotations

from collections.abc import Sequence

from sourcelair.errors import InvalidInput, TooLarge
from sourcelair.store.base import Compare, Operation, Put

MAX_KEY = 1024
"""Bytes of UTF-8 that a key may have."""

MAX_VALUE = 1 << 20
"""Bytes that a value may have. etcd takes requests of 1.5 MiB; a record that needs more is not a record."""

MAX_INTEGER = (1 << 63) - 1
"""Revisions and leases are signed 64-bit numbers, as in etcd."""


def check_text(what: str, text: str) -> str:
    """Return text that can be stored as UTF-8.

    Raises:
        InvalidInput: it has a lone surrogate, which UTF-8 can't hold.
        TooLarge: it is longer than a key may be.
    """
    if len(text) > MAX_KEY:
        raise TooLarge(f"{what}: longer than {MAX_KEY} bytes.")
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise InvalidInput(f"{what}: not valid text (a lone surrogate).") from error
    if size > MAX_KEY:
        raise TooLarge(f"{what}: longer than {MAX_KEY} bytes.")
    return text


def check_key(key: str) -> str:
    """Return a key, or raise InvalidInput or TooLarge. Only the empty one is never a key."""
    if not key:
        raise InvalidInput("key: it may not be empty.")
    return check_text("key", key)


def check_transaction(compares: Sequence[Compare], operations: Sequence[Operation]) -> None:
    """Check a transaction before anything of it is done.

    Raises:
        InvalidInput: a key is not valid, or two operations have the same one.
        TooLarge: a key or a value is too long.
    """
    for compare in compares:
        check_key(compare.key)
    seen: set[str] = set()
    for operation in operations:
        key = check_key(operation.key)
        if key in seen:
            raise InvalidInput(f"key: a transaction changes {key!r} twice.")
        seen.add(key)
        if isinstance(operation, Put) and len(operation.value) > MAX_VALUE:
            raise TooLarge(f"The value of {key!r} has {len(operation.value)} bytes; at most {MAX_VALUE} are stored.")


def prefix_end(prefix: str) -> str | None:
    """Return the first text after all that begins with `prefix`, or None where nothing comes after."""
    for index in range(len(prefix) - 1, -1, -1):
        code = ord(prefix[index]) + 1
        if code == 0xD800:  # surrogates are not characters: the one after U+D7FF is U+E000
            code = 0xE000
        if code <= 0x10FFFF:
            return prefix[:index] + chr(code)
    return None
