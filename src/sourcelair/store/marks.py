"""What a copied store says of itself, in a key of its own: of what it is a copy, and whether it is whole."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Literal

from sourcelair.errors import Conflict, Unavailable
from sourcelair.store.base import Entry, Readable, Store
from sourcelair.store.continued import Continued

KEY = "/copy"
"""The key of the mark. No service has one that begins so, and a copy of the copy gets a mark of its own."""

SCHEMA = 1

CopyState = Literal["copying", "behind", "whole"]


@dataclass(frozen=True, slots=True)
class Mark:
    """What a copy is.

    Attributes:
        source: the place that it was copied from.
        state: `copying` until all of it is there; `behind` where a system went on writing to the source; `whole` where
            nobody could.
        ahead: what is added to the copy's revisions, see `Continued`.
        digest: of the content, see `comparing.digest`.
    """

    source: str
    state: CopyState
    ahead: int = 0
    digest: str = ""


def encode(mark: Mark) -> bytes:
    """Return a mark as it is stored."""
    return json.dumps({"schema": SCHEMA, **asdict(mark)}).encode()


async def mark_of(store: Readable) -> Mark | None:
    """Return the mark of a store; None where it is no copy.

    Raises:
        Unavailable: a newer version wrote it.
    """
    entry = await store.get(KEY)
    return None if entry is None else _decode(entry)


def _decode(entry: Entry) -> Mark:
    values = json.loads(entry.value)
    if (schema := values.pop("schema")) > SCHEMA:
        raise Unavailable(
            f"These stores were copied by a newer version of SourceLair (schema {schema}, this one knows {SCHEMA}): "
            "run that version."
        )
    return Mark(**values)


async def continued(stores: Mapping[str, Store], location: object) -> dict[str, Store]:
    """Return the stores of an installation as they are to be used: where they are copies, with revisions that go on.

    Args:
        stores: by name.
        location: of them, as a message calls it.

    Raises:
        Conflict: one of them is a copy that is not whole.
    """
    found = dict[str, Store]()
    for name, store in stores.items():
        entry = await store.get(KEY)
        if entry is None:
            found[name] = store
            continue
        mark = _decode(entry)
        if mark.state != "whole":
            why = "was not finished" if mark.state == "copying" else "was taken while a system went on in the original"
            raise Conflict(
                f"{location} is a copy of {mark.source} that {why}: stop that system, and finish it with "
                f"`lair store copy {mark.source} {location}`."
            )
        found[name] = Continued(store, mark.ahead, entry.mod_revision + mark.ahead)
    return found
