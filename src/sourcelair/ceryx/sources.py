"""What a route may be for: a host, all hosts below one (`*.example.com`) or all others (`$wildcard`), and a path of it.

Each has one spelling, in which it is stored and in which NGINX looks it up (`lua/lair/paths.lua` has the other end): a
path is percent-encoded where it has to be and nowhere else, and has no slash at its end.
"""

from __future__ import annotations

import re
from functools import lru_cache
from urllib.parse import quote, unquote_to_bytes

from sourcelair.errors import InvalidInput
from sourcelair.names import MAX_HOST, WILDCARD, normalise_host

MAX_SOURCE = 300
"""Characters of a source, its path included: with more, an entry of NGINX's table would take twice the room."""

MAX_SEGMENTS = 8
"""Segments of a path: NGINX looks so many prefixes of a request's path up, one by one."""

RESERVED = b".hemera"
"""The first segment of what NGINX passes to a waker."""

_BROKEN_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_UNCERTAIN = re.compile(rb"[\x00-\x1f\x7f/\\;#?%]")
_SAFE = "!$&'()*+,=:@"


@lru_cache(maxsize=1000)  # one write asks up to four times: of its path, its body, and for the store
def clean_source(source: str) -> str:
    """Return a source in its stored form.

    Args:
        source: a host, `*.` and a host, or `$wildcard`; with a path or without.

    Raises:
        InvalidInput: with the reason.
    """
    if "://" in source:
        raise InvalidInput(f"source: {source[:80]!r} begins with a scheme: leave that out.")
    try:
        host, slash, path = source.partition("/")
        cleaned = _clean_host(host) + _clean_path(slash + path)
    except InvalidInput as error:
        raise InvalidInput(f"source: {error.detail}") from error
    if len(cleaned) > MAX_SOURCE:
        raise InvalidInput(f"source: {cleaned[:80]!r}... has {len(cleaned)} characters; use {MAX_SOURCE} at most.")
    return cleaned


def has_path(source: str) -> bool:
    """Return whether a source is for a path of its host only."""
    return "/" in source


def depth(source: str) -> int:
    """Return the number of segments in a source's path; 0 where it has none."""
    return source.count("/")


def _clean_host(host: str) -> str:
    if host == "*":
        raise InvalidInput(f"'*' alone is no host: use {WILDCARD} for all that have no route of their own.")
    if not host.startswith("*."):
        return normalise_host(host)
    below = normalise_host(host[2:])
    if below == WILDCARD or below.startswith("[") or below.rpartition(".")[2].isdigit():
        raise InvalidInput(f"{host[:80]!r}: only a host name has others below it.")
    if len(below) > MAX_HOST - 2:
        raise InvalidInput(f"{host[:80]!r}... is too long: DNS allows {MAX_HOST} characters.")
    return f"*.{below}"


def _clean_path(path: str) -> str:
    """Return a path that begins with a slash in its stored form; "" for that of all of a host."""
    if path in {"", "/"}:
        return ""
    if _BROKEN_ESCAPE.search(path):
        raise InvalidInput(f"{path[:80]!r}: a % must begin an escape such as %20.")
    segments = path.removeprefix("/").removesuffix("/").split("/")
    if len(segments) > MAX_SEGMENTS:
        raise InvalidInput(f"{path[:80]!r} has {len(segments)} segments; use {MAX_SEGMENTS} at most.")
    cleaned = [_clean_segment(segment, path) for segment in segments]
    if unquote_to_bytes(cleaned[0]) == RESERVED:
        raise InvalidInput(f"{path[:80]!r}: /{RESERVED.decode()}/ is where visitors reach the waker.")
    return "".join(f"/{segment}" for segment in cleaned)


def _clean_segment(segment: str, path: str) -> str:
    try:
        decoded = unquote_to_bytes(segment)
    except UnicodeEncodeError as error:
        raise InvalidInput(f"{path[:80]!r} is no text that can be written in UTF-8.") from error
    if decoded in {b"", b".", b".."}:
        raise InvalidInput(f"{path[:80]!r} has an empty segment or one of dots: there are several readings of that.")
    if _UNCERTAIN.search(decoded):
        raise InvalidInput(
            f"{path[:80]!r} has a character that programs read in different ways: leave out "
            "/ \\ ; # ? % within a segment, and control characters, encoded ones too."
        )
    return quote(decoded, safe=_SAFE)
