"""The names that people choose: owners, projects and public hosts, and the rules that keep them unambiguous.

`{project}--{owner}` is one DNS label. Neither part may hold a double hyphen, so the label splits in one way only; a
project has three characters or more, since a label with hyphens in places 3 and 4 is reserved (RFC 5891, 4.2.3.1).
"""

from __future__ import annotations

import ipaddress
import re

from sourcelair.errors import InvalidInput

WILDCARD = "$wildcard"
MAX_LABEL = 63
MAX_HOST = 253
MIN_PROJECT = 3

_NAME = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")
_MAX_INPUT = 1000
_BRACKETED = re.compile(r"\[(?P<host>[^\]]*)\](?::[0-9]{0,5})?")
_WITH_PORT = re.compile(r"(?P<host>[^:]+)(?::[0-9]{0,5})?", re.DOTALL)
_HOST_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?")


def check_name(kind: str, value: str) -> str:
    """Return an owner's or project's name, or raise.

    Args:
        kind: `owner` or `project`, for the message.
        value: the name.

    Raises:
        InvalidInput: the name is empty, too long, or has other characters than `a-z`, `0-9` and single hyphens.
    """
    if not _NAME.fullmatch(value) or len(value) > MAX_LABEL:
        raise InvalidInput(
            f"{kind}: {value[:80]!r} is not a valid name: use a-z, 0-9 and single hyphens between them "
            f"(at most {MAX_LABEL} characters)."
        )
    if kind == "project" and len(value) < MIN_PROJECT:
        raise InvalidInput(f"project: {value!r} is too short: use {MIN_PROJECT} characters or more.")
    return value


def host_label(owner: str, project: str) -> str:
    """Return the DNS label of a server, `{project}--{owner}`.

    Raises:
        InvalidInput: a name is invalid, or the label is longer than DNS allows.
    """
    label = f"{check_name('project', project)}--{check_name('owner', owner)}"
    if len(label) > MAX_LABEL:
        raise InvalidInput(
            f"{project!r} and {owner!r} together make a host label of {len(label)} characters; DNS allows {MAX_LABEL}."
        )
    return label


def normalise_host(value: str) -> str:
    """Return a public host in the one form that is stored: lower case, no port, no trailing dot, IDNA encoded.

    Takes what a browser's `Host` header may hold, so a port is dropped, and an IPv6 address keeps its brackets (it gets
    them where it has none) and becomes the short form of RFC 5952.

    Raises:
        InvalidInput: it is not a host name or an IP address.
    """
    if value == WILDCARD:
        return value
    if len(value) > _MAX_INPUT:
        raise InvalidInput(f"{value[:80]!r}... is not a host name: DNS allows {MAX_HOST} characters.")
    parts = _BRACKETED.fullmatch(value) or _WITH_PORT.fullmatch(value)
    if value.count(":") > 1 and not value.startswith("["):
        return f"[{_ipv6(value, value)}]"
    if parts is None:
        raise InvalidInput(f"{value[:80]!r} is not a host name, such as blog--demo.example.com.")
    if value.startswith("["):
        return f"[{_ipv6(parts['host'], value)}]"
    return _host_name(parts["host"], value)


def _ipv6(text: str, value: str) -> str:
    try:
        address = ipaddress.IPv6Address(text)
    except ValueError as error:
        raise InvalidInput(f"{value[:80]!r} is not an IPv6 address.") from error
    if address.scope_id is not None:  # a zone names an interface of one machine only
        raise InvalidInput(f"{value[:80]!r}: an address with a zone is no public host.")
    return str(address)


def _host_name(text: str, value: str) -> str:
    host = (text if text.isascii() else _to_ascii(text, value)).lower().removesuffix(".")
    labels = host.split(".")
    if len(host) > MAX_HOST or not all(len(label) <= MAX_LABEL and _HOST_LABEL.fullmatch(label) for label in labels):
        raise InvalidInput(f"{value[:80]!r} is not a valid host name, such as blog--demo.example.com.")
    if labels[-1].isdigit():  # browsers read this as an IPv4 address, or not at all
        try:
            ipaddress.IPv4Address(host)
        except ValueError as error:
            raise InvalidInput(f"{value[:80]!r} is neither a host name nor an IPv4 address.") from error
    return host


def _to_ascii(text: str, value: str) -> str:
    """Return a host name with its letters beyond ASCII encoded as browsers do.

    That is UTS 46 without its transitional mappings, and IDNA 2008: `straße` is a name of its own, and not `strasse` as
    in IDNA 2003, which Python's own codec still has.
    """
    import idna  # its tables take 10 ms to load, and few hosts need them

    try:
        mapped = idna.uts46_remap(text, std3_rules=False, transitional=False)
        labels = [label if label.isascii() else idna.alabel(label).decode("ascii") for label in mapped.split(".")]
    except (idna.IDNAError, UnicodeError) as error:
        raise InvalidInput(
            f"{value[:80]!r} is not a valid host name: if a registry has it all the same, write it as xn--..."
        ) from error
    return ".".join(labels)
