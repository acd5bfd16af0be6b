"""The store: a small, revisioned key-value interface with an embedded (SQLite) and a clustered implementation."""

from __future__ import annotations

from pathlib import Path

from sourcelair.errors import InvalidInput
from sourcelair.store.base import Store
from sourcelair.store.sqlite import open_sqlite

__all__ = ["open_store"]


async def open_store(location: Path | str) -> Store:
    """Open the store at `location`, making it where it is missing.

    Args:
        location: the path of a file: the embedded store (SQLite), for this process alone.

    Raises:
        Conflict: another process has the file open.
        LairError: the file is no store of ours, or a newer version's, or can't be read; the message says what to do.
    """
    text = str(location)
    if "://" in text:
        raise InvalidInput(f"{text.partition('://')[0]}://: no such kind of store; give the path of a file.")
    return await open_sqlite(Path(text))
