"""Where the servers of a store run: from one data directory, whose machine alone can see their processes."""

from __future__ import annotations

import json
import socket

from sourcelair.errors import Conflict
from sourcelair.store.base import Store

_KEY = "/home"
_SCHEMA = 1


async def check_home(store: Store, installation: str) -> int:
    """Make sure that servers are run by who can see them: from elsewhere all of them would look dead, and start twice.

    Args:
        store: the SourceLair API's.
        installation: the id of this data directory.

    Returns:
        the revision at which that was written down; 0 where they have no home yet.

    Raises:
        Conflict: they are at home elsewhere.
    """
    entry = await store.get(_KEY)
    if entry is None:
        return 0
    home = json.loads(entry.value)
    if home["installation"] != installation:
        raise Conflict(
            f"The servers of this store run on {home['host']}, from another data directory: their processes can't be "
            "seen from here. Start it there. If that machine is gone for good, --take-over makes this one their home."
        )
    return entry.mod_revision


async def settle_home(store: Store, installation: str, *, take_over: bool) -> None:
    """Make a data directory the home of the servers, unless they have another.

    Args:
        store: the SourceLair API's.
        installation: the id of the data directory.
        take_over: it is their home from now on, whatever was.

    Raises:
        Conflict: they are at home elsewhere.
    """
    if not take_over and await check_home(store, installation):
        return
    home = {"schema": _SCHEMA, "installation": installation, "host": socket.gethostname()}
    await store.put(_KEY, json.dumps(home).encode())
