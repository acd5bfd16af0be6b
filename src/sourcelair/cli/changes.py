"""Changing a server that exists: read, change what was said, write; nobody else's change gets lost between."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from sourcelair.errors import PreconditionFailed

if TYPE_CHECKING:
    from sourcelair.client.servers import Server, ServersClient

TRIES = 5
"""Times that a change is tried: each step of a server's life is a new revision too, which a write in between misses."""


async def change(
    client: ServersClient, owner: str, project: str, edit: Callable[[dict[str, Any]], Mapping[str, Any]]
) -> Server:
    """Change a server, and return it as it is then.

    Args:
        client: of the API.
        owner: its owner.
        project: its project.
        edit: returns the new body of PUT, given the present one. Values of variables are `***` there: they stay what
            they are. It may be called again.

    Raises:
        NotFound: there is no such server.
        InvalidInput: what `edit` returned is none.
        PreconditionFailed: somebody else was faster, every time.
    """
    from sourcelair.cli.values import refused_by_the_model
    from sourcelair.client.servers import ServerInput

    left = TRIES
    while True:
        server = await client.get(owner, project)
        with refused_by_the_model():
            body = ServerInput.model_validate(edit(server.model_dump(include=set(ServerInput.model_fields))))
        try:
            return await client.put(owner, project, body, expect=server.revision)
        except PreconditionFailed:
            left -= 1
            if not left:
                raise


def merged(base: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with what was given put over it; objects are merged, all else is replaced, None was not given."""
    result = dict(base)
    for name, value in given.items():
        if isinstance(value, Mapping):
            result[name] = merged(result.get(name) or {}, value)
        elif value is not None:
            result[name] = value
    return result
