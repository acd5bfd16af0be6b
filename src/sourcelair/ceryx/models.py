"""What Ceryx stores, and how a stored route is shown. Every record carries the schema version that wrote it."""

from __future__ import annotations

import json
from typing import Any

from sourcelair.client.ceryx import Route, StoredRoute
from sourcelair.errors import Unavailable
from sourcelair.store.base import Entry, Event

SCHEMA = 1
"""Version of the records below. A newer one is refused; an older one would be migrated in `record_of`."""

ROUTES = "/routes/"
NODES = "/nodes/"

_OPTIONAL = ("waker", "instance", "managed_by")


def route_key(source: str) -> str:
    """Return the store's key of a route."""
    return ROUTES + source


def node_key(node: str) -> str:
    """Return the store's key of a node."""
    return NODES + node


def encode_route(route: Route) -> bytes:
    """Return the stored record of a route; its source is the key."""
    return json.dumps(
        {
            "schema": SCHEMA,
            "target": route.target,
            "settings": route.settings.model_dump(),
            "waker": route.waker,
            "instance": route.instance,
            "managed_by": route.managed_by,
        }
    ).encode()


def record_of(entry: Entry) -> dict[str, Any]:
    """Return a stored record as it was written.

    Raises:
        Unavailable: a newer version of SourceLair wrote it, or somebody else.
    """
    try:
        record: dict[str, Any] = json.loads(entry.value)
        is_newer = record["schema"] > SCHEMA
    except (ValueError, TypeError, KeyError) as error:
        raise Unavailable(f"{entry.key} is no record of SourceLair: delete it, or restore a backup.") from error
    if is_newer:
        raise Unavailable(
            f"{entry.key} was written by a newer version of SourceLair (schema {record['schema']}, this one knows "
            f"{SCHEMA}): run that version, or restore an older data directory."
        )
    return record


def decode_route(entry: Entry) -> StoredRoute:
    """Return the route that an entry of the store holds. Raises Unavailable as `record_of` does."""
    record = record_of(entry)
    del record["schema"]
    return StoredRoute(source=entry.key.removeprefix(ROUTES), revision=entry.mod_revision, **record)


def show_entry(entry: Entry, *, revision: bool = False) -> dict[str, Any]:
    """Return a stored route as the API answers it (see `show_route`), without building a model of each.

    Args:
        entry: of the store.
        revision: add the revision of its last change.
    """
    record = record_of(entry)
    shown = {
        "source": entry.key.removeprefix(ROUTES),
        "target": record["target"],
        "settings": record["settings"],
        **{key: record[key] for key in _OPTIONAL if record[key] is not None},
    }
    if revision:
        shown["revision"] = entry.mod_revision
    return shown


def show_change(event: Event) -> dict[str, Any]:
    """Return the change of a route as a watch tells it (`RouteChange`), without building a model of each."""
    source, entry = event.key.removeprefix(ROUTES), event.entry
    if entry is None:
        return {"source": source, "route": None}
    record = record_of(entry)
    del record["schema"]
    return {"source": source, "route": {"source": source, **record, "revision": entry.mod_revision}}


def show_route(route: Route) -> dict[str, Any]:
    """Return a route as the API answers it: the original's three keys, and ours only where they are not null."""
    optional = {key: value for key in _OPTIONAL if (value := getattr(route, key)) is not None}
    return {
        "source": route.source,
        "target": route.target,
        "settings": route.settings.model_dump(),
        **optional,
    }
