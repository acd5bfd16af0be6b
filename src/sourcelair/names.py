"""The names that people choose: owners, projects and public hosts, and the rules that keep them unambiguous.

`{project}--{owner}` is one DNS label. Neither part may hold a double hyphen, so the label splits in one way only; a
project has three characters or more, since a label with hyphens in places 3 and 4 is reserved (RFC 5891, 4.2.3.1).
"""

from __future__ import annotations

import re

from sourcelair.errors import InvalidInput

WILDCARD = "$wildcard"
MAX_LABEL = 63
MAX_HOST = 253
MIN_PROJECT = 3

_NAME = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")
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

    Raises:
        InvalidInput: it is not a host name or an IP address.
    """
    if value == WILDCARD:
        return value
    host = value.strip().lower().removesuffix(".")
    host, _, port = host.partition(":") if host.count(":") == 1 else (host, "", "")
    if port and not port.isdigit():
        raise InvalidInput(f"{value[:80]!r} is not a host name: what follows the colon is not a port.")
    try:
        ascii_host = host if host.isascii() else host.encode("idna").decode("ascii")
    except UnicodeError as error:
        raise InvalidInput(f"{value[:80]!r} is not a valid host name.") from error
    if host.startswith("[") and host.endswith("]"):
        return host
    labels = ascii_host.split(".")
    fits = len(ascii_host) <= MAX_HOST and all(len(x) <= MAX_LABEL and _HOST_LABEL.fullmatch(x) for x in labels)
    if not fits:
        raise InvalidInput(f"{value[:80]!r} is not a valid host name, such as blog--demo.example.com.")
    return ascii_host
