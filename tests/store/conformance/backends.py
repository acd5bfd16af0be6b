"""What the conformance suite asks of an implementation: a `Backend`, made by a function that is listed in BACKENDS.

A second implementation drops in by adding its factory there, under the name that its tests get.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from tests.etcd import EtcdCluster

from sourcelair.store.base import Store
from sourcelair.store.continued import Continued
from sourcelair.store.etcd import EtcdStore, parse_address
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

    real_time: bool
    """Whether time passes by itself, so that nobody can let much of it pass."""

    second: float
    """What a second of a case lasts, in seconds: leases may be as short, and their time is kept as exactly."""


class SqliteBackend:
    """A file in a directory of the test, with a clock that the test moves."""

    restart_renews_leases = True
    real_time = False
    second = 1.0

    def __init__(self, directory: Path) -> None:
        self._path = directory / "store.db"
        self.now = 1000.0

    async def open(self) -> SqliteStore:
        return await open_sqlite(self._path, clock=lambda: self.now)

    async def pass_time(self, store: Store, seconds: float) -> None:
        assert isinstance(store, SqliteStore)
        self.now += seconds
        await store.expire_leases()


class EtcdBackend:
    """A prefix of its own in the etcd of all tests."""

    restart_renews_leases = False
    real_time = True
    second = 0.4

    cluster: EtcdCluster

    def __init__(self, _: Path) -> None:
        self._address = parse_address(self.cluster.url(f"/{uuid.uuid4().hex}"))

    async def open(self) -> EtcdStore:
        return EtcdStore(self._address, "store")

    async def pass_time(self, _: Store, seconds: float) -> None:
        await asyncio.sleep(seconds)


class ContinuedBackend(SqliteBackend):
    """A file whose revisions go on from another store's."""

    ahead = 1000

    async def open(self) -> Continued:  # type: ignore[override]
        self._inner = await super().open()
        return Continued(self._inner, self.ahead, self.ahead)

    async def pass_time(self, _: Store, seconds: float) -> None:
        await super().pass_time(self._inner, seconds)


BACKENDS: dict[str, Callable[[Path], Backend]] = {
    "sqlite": SqliteBackend,
    "etcd": EtcdBackend,
    "continued": ContinuedBackend,
}
