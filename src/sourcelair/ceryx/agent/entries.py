"""From a route to an entry of the node's table."""

from __future__ import annotations

from dataclasses import replace
from urllib.parse import urlsplit

from sourcelair.ceryx.addresses import literal
from sourcelair.ceryx.agent.compiled import compile_settings
from sourcelair.ceryx.table import TableEntry
from sourcelair.client.ceryx import StoredRoute

_PORTS = {"http": 80, "https": 443}


def entry_of(route: StoredRoute, *, flows: bool = True) -> tuple[TableEntry, str | None]:
    """Return the entry of a route, and the name in its target that has to be looked up, if there is one.

    Without `flows` the bytes of streams can't be seen here: those that would count while they flow count as long as
    they are open.
    The entry of such a route is `unresolved` until `resolved` is given an address; without a problem, visitors wait.
    """
    entry = TableEntry(
        source=route.source,
        revision=route.revision,
        state="null",
        enforce_https=route.settings.enforce_https,
        waker=route.waker,
        settings=compile_settings(route.settings, flows=flows),
    )
    if route.target is None:
        return entry, None
    if route.settings.mode == "redirect":
        return replace(entry, state="redirect", location=route.target), None
    parts = urlsplit(route.target)
    host = parts.hostname or ""
    address = literal(host)
    entry = replace(
        entry,
        state="live" if address else "unresolved",
        address=address,
        port=parts.port or _PORTS[parts.scheme],
        instance=route.instance,
        tls=parts.scheme == "https",
        server_name=host if parts.scheme == "https" and not address else None,
    )
    return entry, None if address else host


def resolved(entry: TableEntry, address: str | None, problem: str | None) -> TableEntry:
    """Return the entry with what a look-up of its target's name gave."""
    if address is None:
        return replace(entry, state="unresolved", address=None, problem=problem)
    return replace(entry, state="live", address=address, problem=None)


def deleted(source: str, revision: int) -> TableEntry:
    """Return the tombstone of a route."""
    return TableEntry(source=source, revision=revision, state="deleted")


def without_target(entry: TableEntry) -> TableEntry:
    """Return the entry of the same route with its target taken off."""
    return TableEntry(
        source=entry.source,
        revision=entry.revision,
        state="null",
        enforce_https=entry.enforce_https,
        waker=entry.waker,
        settings=entry.settings,
    )


def differs(wanted: TableEntry, found: TableEntry) -> bool:
    """Return whether NGINX holds something else than is wanted, by what the engine reads back."""
    return _read_back(wanted) != _read_back(found)


def _read_back(entry: TableEntry) -> tuple[str | int | None, ...]:
    return (entry.state, entry.address, entry.port, entry.instance, entry.revision, entry.settings)
