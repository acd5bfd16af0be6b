"""Opening the stores of an installation, wherever they are."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Protocol

from sourcelair.errors import InvalidInput, LairError
from sourcelair.store.base import Store
from sourcelair.store.marks import continued
from sourcelair.store.sqlite import open_sqlite


class Seats(Protocol):
    """Who acts for which service, where several processes may."""

    on_change: list[Callable[[], None]]
    """All are called when that has changed."""

    def url(self, service: str) -> str | None:
        """Return where the process that acts for a service answers; None while nobody does."""
        ...


class Stores(Protocol):
    """All stores of an installation."""

    @property
    def seats(self) -> Seats | None:
        """Who acts for which service; None where that is this process alone."""
        ...

    async def shared(self, name: str) -> Store:
        """Open a store that every process may use."""
        ...

    def hold(
        self, services: Sequence[str], *, say: Callable[[str], None], lost: Callable[[LairError], None]
    ) -> AbstractAsyncContextManager[Mapping[str, Store]]:
        """Open the stores of some services for this process alone, once no other one acts for them.

        Args:
            services: each has one store, of its name.
            say: told, for a person, what is being waited for.
            lost: called when another process may act for one of them; nothing can be written here any more.

        Raises:
            LairError: it is no store of ours, or a newer version's, or can't be read; the message says what to do.
            Conflict: it is a copy that is not whole.
        """
        ...


@asynccontextmanager
async def open_stores(location: Path | str, *, identity: str = "", url: str = "") -> AsyncIterator[Stores]:
    """Open the stores of an installation, making what is missing.

    Args:
        location: a directory: one file for each store (SQLite), for this process alone. Or `etcd://HOST:PORT/PREFIX`,
            see `etcd.address`.
        identity: what only one process at a time can have, such as a locked data directory: who has it follows the
            last one at once.
        url: where this process answers.

    Raises:
        InvalidInput: it is no such location.
    """
    text = str(location)
    if text.startswith("etcd://"):
        from sourcelair.store.etcd import EtcdStores, Holder, parse_address  # gRPC is large, and few need it

        holder = Holder(identity, socket.gethostname(), os.getpid(), url)
        async with EtcdStores(parse_address(text), holder) as stores:
            yield _Continued(stores, text)
    elif "://" in text:
        raise InvalidInput(f"store: {text.partition('://')[0]}:// is no kind of store; there is etcd://.")
    else:
        async with AsyncExitStack() as stack:
            yield _Continued(_Files(Path(text), stack), text)


class _Files:
    """Stores in the files of a directory."""

    seats: Seats | None = None

    def __init__(self, directory: Path, stack: AsyncExitStack) -> None:
        self._directory = directory
        self._stack = stack

    async def shared(self, name: str) -> Store:
        """See `Stores.shared`."""
        store = await open_sqlite(self._directory / f"{name}.db")
        self._stack.push_async_callback(store.close)
        return store

    @asynccontextmanager
    async def hold(
        self, services: Sequence[str], *, say: Callable[[str], None], lost: Callable[[LairError], None]
    ) -> AsyncIterator[Mapping[str, Store]]:
        """See `Stores.hold`. The files are locked: nobody else has them, and nobody is waited for."""
        del say, lost
        async with AsyncExitStack() as stack:
            stores = dict[str, Store]()
            for name in services:
                store = stores[name] = await open_sqlite(self._directory / f"{name}.db")
                stack.push_async_callback(store.close)
            yield stores


class _Continued:
    """Stores as they are to be used, whoever opened them: where they are copies, with revisions that go on."""

    def __init__(self, stores: Stores, location: str) -> None:
        self._stores = stores
        self._location = location

    @property
    def seats(self) -> Seats | None:
        """See `Stores.seats`."""
        return self._stores.seats

    async def shared(self, name: str) -> Store:
        """See `Stores.shared`."""
        return (await continued({name: await self._stores.shared(name)}, self._location))[name]

    @asynccontextmanager
    async def hold(
        self, services: Sequence[str], *, say: Callable[[str], None], lost: Callable[[LairError], None]
    ) -> AsyncIterator[Mapping[str, Store]]:
        """See `Stores.hold`."""
        async with self._stores.hold(services, say=say, lost=lost) as stores:
            yield await continued(stores, self._location)
