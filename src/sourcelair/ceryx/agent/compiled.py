"""A route's own settings in the words of NGINX's Lua (`lua/lair/settings.lua`), prepared so that it parses little.

One line of text: `patience|wake_timeout|streams|strip|buffering|rule|rule…`, each rule
`wakes,path,method,agent,address,header,value`. What is empty is not said; everything between is percent-encoded.
"""

from __future__ import annotations

from urllib.parse import quote, unquote_to_bytes

from sourcelair.ceryx.addresses import network_of, pattern_of
from sourcelair.client.ceryx import RouteSettings
from sourcelair.client.policy import QuietRule

_SAFE = "/^=[]:"


def compile_settings(settings: RouteSettings, *, flows: bool) -> str | None:
    """Return what a node needs of a route's own settings; None where it has none.

    Args:
        settings: as `clean_route` let them pass.
        flows: whether the bytes of streams can be seen on this node; where they can't, `flow` means `always`.
    """
    streams = settings.streams
    if streams == "always" or (streams == "flow" and not flows):
        streams = None
    strip = "1" if settings.strip_prefix else ""
    rules = [_rule(rule) for rule in settings.quiet or ()]
    times = (_number(settings.patience), _number(settings.wake_timeout))
    said = (*times, streams or "", strip, settings.buffering or "", *rules)
    return "|".join(said) if any(said) else None


def _number(value: float | None) -> str:
    return "" if value is None else repr(float(value))


def _rule(rule: QuietRule) -> str:
    fields = (
        b"1" if rule.wakes else b"",
        _path(rule.path),
        (rule.method or "").encode(),
        (rule.agent or "").encode().lower(),
        pattern_of(network_of(rule.address)).encode() if rule.address else b"",
        (rule.header or "").lower().replace("-", "_").encode(),
        (rule.value or "").encode(),
    )
    return ",".join(quote(field, safe=_SAFE) for field in fields)


def _path(path: str | None) -> bytes:
    """NGINX compares decoded paths: `=` and all of it, or `^` and how it begins."""
    if not path:
        return b""
    return b"^" + unquote_to_bytes(path[:-1]) if path.endswith("*") else b"=" + unquote_to_bytes(path)
