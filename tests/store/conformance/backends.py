"""What the conformance suite asks of an implementation: a `Backend`, made by a function that is listed in BACKENDS.

A second implementation drops in by adding its factory there, under the name that its tests get.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from sourcelair.store.base import Store
from sourcelair.store.sqlite import SqliteStore, open_sqlite


class Backend(Protocol):
    """One empty store, that can be closed and opened again."""

    async def open(self) -> Store:
        """Open the store, with what was written to it before."""
        ...

    async def pass_time(self, store: Store, seconds: float) -> None:
        """Let time pass for leases, and wait until those that ran out are gone."""
        ...

    restart_renews_leases: bool
    """Whether closing and opening again begins the time of all leases anew."""


class SqliteBackend:
    """A file in a directory of the test, with a clock that the test moves."""

    restart_renews_leases = True

    def __init__(self, directory: Path) -> None:
        self._path = directory / "store.db"
        self.now = 1000.0

    async def open(self) -> SqliteStore:
        return await open_sqlite(self._path, clock=lambda: self.now)

    async def pass_time(self, store: Store, seconds: float) -> None:
        assert isinstance(store, SqliteStore)
        self.now += seconds
        await store.expire_leases()


BACKENDS: dict[str, Callable[[Path], Backend]] = {"sqlite": SqliteBackend}
