"""What a route may look like. Everything that reaches the store, and so every node's table, went through here."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from urllib.parse import SplitResult, urlsplit

from sourcelair.ceryx.sources import clean_source, has_path
from sourcelair.client.ceryx import Route, RouteSettings, RouteWrite
from sourcelair.errors import InvalidInput
from sourcelair.pacing import in_steps

MAX_URL = 2048
"""Characters of a target or of a waker's URL."""

MAX_PATH = 4096
"""Characters of a path in the settings (PATH_MAX)."""

_IDENTIFIER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,63}")
_URL_PATH = re.compile(r"(?:/[A-Za-z0-9._~!$&'()*+,;=:@%-]*)*")
_HOST = re.compile(r"[a-z0-9_](?:[a-z0-9_.-]{0,251}[a-z0-9_])?\.?")


def _ipv6(text: str, field: str) -> str:
    try:
        if "%" in text:
            raise ValueError(text)  # noqa: TRY301 - a zone names an interface of one machine only
        return str(ipaddress.IPv6Address(text))
    except ValueError as error:
        raise InvalidInput(f"{field}: {text[:80]!r} is not an IPv6 address.") from error


def _split(url: str, field: str) -> SplitResult:
    """Split an http(s) URL, refusing whatever has no place in one that a proxy calls."""
    if len(url) > MAX_URL:
        raise InvalidInput(f"{field}: at most {MAX_URL} characters.")
    if not url.isascii() or any(ord(character) <= 32 or ord(character) == 127 for character in url):
        raise InvalidInput(f"{field}: {url[:80]!r} has a space, a control character or a letter that is not ASCII.")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise InvalidInput(f"{field}: {url[:80]!r} is not a URL: {error}.") from error
    if parts.scheme not in {"http", "https"}:
        raise InvalidInput(f"{field}: {url[:80]!r} must begin with http:// or https://.")
    if "@" in parts.netloc:
        raise InvalidInput(f"{field}: a user name or password has no place in it.")
    if "?" in url or "#" in url:
        raise InvalidInput(f"{field}: a query or fragment has no place in it: a visitor's own is passed on.")
    if not parts.hostname or port == 0 or parts.netloc.endswith(":"):
        raise InvalidInput(f"{field}: {url[:80]!r} must be http(s)://host:port.")
    if not _URL_PATH.fullmatch(parts.path):
        raise InvalidInput(f"{field}: the path of {url[:80]!r} has a character that must be percent-encoded.")
    return parts


def _authority(parts: SplitResult, field: str) -> str:
    """Return `host[:port]` of a URL, checked, lower case, IPv6 in brackets."""
    host = parts.hostname or ""
    if "[" in parts.netloc:
        host = f"[{_ipv6(host, field)}]"
    elif not _HOST.fullmatch(host) or ".." in host or any(len(label) > 63 for label in host.split(".")):
        raise InvalidInput(f"{field}: {host[:80]!r} is not a host name or an IP address.")
    return host if parts.port is None else f"{host}:{parts.port}"


def clean_target(target: str, mode: str) -> str:
    """Return a target in its stored form, `http(s)://host[:port]`; a scheme that is missing is `http`.

    Args:
        target: where requests go.
        mode: of the route: only a redirect's target may have a path, which the visitor's own is appended to.

    Raises:
        InvalidInput: with the reason.
    """
    parts = _split(target if "://" in target else f"http://{target}", "target")
    path = parts.path.rstrip("/")
    if path and mode != "redirect":
        raise InvalidInput(
            f"target: a path ({path[:80]!r}) is for mode redirect only: in mode proxy the visitor's path is passed on."
        )
    return f"{parts.scheme}://{_authority(parts, 'target')}{path}"


def clean_waker(waker: str) -> str:
    """Return a waker's base URL without a slash at its end.

    Raises:
        InvalidInput: with the reason.
    """
    parts = _split(waker, "waker")
    return f"{parts.scheme}://{_authority(parts, 'waker')}{parts.path.rstrip('/')}"


def check_identifier(field: str, value: str) -> str:
    """Return an id of an instance, a node or a manager.

    Raises:
        InvalidInput: it is not 1 to 64 of `A-Z a-z 0-9 . _ : -`, beginning with a letter or digit.
    """
    if not _IDENTIFIER.fullmatch(value):
        raise InvalidInput(f"{field}: {value[:80]!r} is not an id: use 1 to 64 letters, digits, and . _ : - between.")
    return value


def _check_path(field: str, value: str | None) -> None:
    if value is not None and (len(value) > MAX_PATH or not value.isprintable()):
        raise InvalidInput(f"settings.{field}: use at most {MAX_PATH} printable characters.")


def _clean_settings(settings: RouteSettings) -> RouteSettings:
    _check_path("certificate_path", settings.certificate_path)
    _check_path("key_path", settings.key_path)
    return settings


def clean_route(route: Route) -> Route:
    """Return a route in its stored form.

    Raises:
        InvalidInput: naming the field that is wrong, and why.
    """
    if route.target is None and route.settings.mode == "redirect":
        raise InvalidInput("target: a redirect needs one.")
    source = clean_source(route.source)
    if route.settings.strip_prefix and not has_path(source):
        raise InvalidInput(f"settings.strip_prefix: the source {source} has no path that could be taken off.")
    return Route(
        source=source,
        target=None if route.target is None else clean_target(route.target, route.settings.mode),
        settings=_clean_settings(route.settings),
        waker=None if route.waker is None else clean_waker(route.waker),
        instance=None if route.instance is None else check_identifier("instance", route.instance),
        managed_by=None if route.managed_by is None else check_identifier("managed_by", route.managed_by),
    )


async def clean_writes(writes: Sequence[RouteWrite], manager: str | None) -> list[RouteWrite]:
    """Return writes in their stored form, their routes marked as `manager`'s.

    Raises:
        InvalidInput: a route is wrong, a source comes twice, or a route names another manager.
        TooLarge: never; the caller bounds the number.
    """
    cleaned: dict[str, RouteWrite] = {}
    async for write in in_steps(writes):
        source = clean_source(write.source)
        if source in cleaned:
            raise InvalidInput(f"writes: {source} comes twice: at most one write for each source.")
        route = write.route
        if route is not None:
            route = clean_route(route)
            if route.source != source:
                raise InvalidInput(f"writes: the route of {source} says that its source is {route.source}.")
            if route.managed_by not in {None, manager}:
                raise InvalidInput(
                    "managed_by: a route is managed by the service that writes it, in a batch that says so."
                )
            route = route.model_copy(update={"managed_by": manager})
        cleaned[source] = RouteWrite(source=source, route=route, expect=write.expect)
    return list(cleaned.values())
