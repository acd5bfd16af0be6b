"""Values as people write them on a command line: times, sizes, variables."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from sourcelair.errors import InvalidInput

_TIME = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|min|h|d)?")
_SECONDS = {"ms": 0.001, None: 1, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", re.IGNORECASE)
_BYTES = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}


def seconds(text: str | None) -> float | None:
    """Return a time in seconds: `90`, `90s`, `10m`, `2h`, `1d`, `500ms`.

    Raises:
        InvalidInput: it is something else.
    """
    if text is None:
        return None
    match = _TIME.fullmatch(text.strip())
    if not match:
        raise InvalidInput(f"{text!r} is not a time: write 90s, 10m or 2h.")
    return float(match[1]) * _SECONDS[match[2]]


def duration(text: str | None) -> float | str | None:
    """Return a time in seconds, as `seconds` does, or `never`.

    Raises:
        InvalidInput: it is something else.
    """
    return "never" if text is not None and text.strip().lower() == "never" else seconds(text)


def size(text: str | None) -> int | None:
    """Return a size in bytes: `1000000`, `512M`, `2G` (powers of 1024).

    Raises:
        InvalidInput: it is something else.
    """
    if text is None:
        return None
    match = _SIZE.fullmatch(text.strip())
    if not match:
        raise InvalidInput(f"{text!r} is not a size: write 512M or 2G.")
    return int(float(match[1]) * (1 << _BYTES[match[2].upper()]))


def variables(pairs: Sequence[str]) -> dict[str, str]:
    """Return `K=V` pairs as a dictionary; the last of one name counts.

    Raises:
        InvalidInput: one has no `=`.
    """
    found = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise InvalidInput(f"--env: {name[:80]!r} has no value: write NAME=VALUE.")
        found[name] = value
    return found


def shell_line(argv: Sequence[str]) -> str:
    """Return a command as it may be typed into a shell; `{port}` stays readable."""
    return " ".join(word if re.fullmatch(r"[\w@%+=:,./{}-]+", word) else shlex.quote(word) for word in argv)


@contextmanager
def refused_by_the_model() -> Iterator[None]:
    """Turn what pydantic refuses into InvalidInput that names the field.

    Raises:
        InvalidInput: a value is out of its range.
    """
    from pydantic import ValidationError

    try:
        yield
    except ValidationError as error:
        first = error.errors()[0]
        said = first["msg"].removeprefix("Value error, ")
        raise InvalidInput(f"{'.'.join(str(part) for part in first['loc'])}: {said.rstrip('.')}.") from error
