"""Where the stores of an installation may lie, as copying sees it: a data directory, or a prefix of etcd's keys."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from sourcelair.errors import Conflict, InvalidInput, LairError
from sourcelair.store.base import Readable, Store
from sourcelair.store.sqlite import open_sqlite
from sourcelair.store.sqlite.files import FileLock
from sourcelair.store.sqlite.view import SqliteView

if TYPE_CHECKING:
    from sourcelair.store.etcd import EtcdAddress


Proof = Callable[[], Awaitable[None]]
"""Raises Unavailable where somebody else may have written since it was given."""


class Place(Protocol):
    """A place for stores; its text names it, the same each time, and tells it from all others."""

    def reading(self, names: Sequence[str]) -> AbstractAsyncContextManager[dict[str, Readable]]:
        """Open stores to read them, whoever has them open. Raises NotFound: one of them is not there."""
        ...

    def resting(self, names: Sequence[str]) -> AbstractAsyncContextManager[Proof | None]:
        """Keep everybody from writing; gives None, and keeps nobody, where a system is at work."""
        ...

    def writing(self, names: Sequence[str]) -> AbstractAsyncContextManager[dict[str, Store]]:
        """Open stores to write them, making what is missing. Raises Conflict: a system is at work."""
        ...

    def how_to_empty(self, names: Sequence[str]) -> str:
        """Say how a person removes these stores."""
        ...


class Directory:
    """A data directory, with one SQLite file for each store."""

    def __init__(self, path: Path) -> None:
        self._path = path.expanduser().resolve()

    def __str__(self) -> str:
        return str(self._path)

    def _file(self, name: str) -> Path:
        return self._path / f"{name}.db"

    @asynccontextmanager
    async def reading(self, names: Sequence[str]) -> AsyncIterator[dict[str, Readable]]:
        """See `Place.reading`."""
        async with AsyncExitStack() as stack:
            stores = dict[str, Readable]()
            for name in names:
                view = SqliteView(self._file(name))
                stack.push_async_callback(view.close)
                stores[name] = view
            yield stores

    @asynccontextmanager
    async def resting(self, names: Sequence[str]) -> AsyncIterator[Proof | None]:
        """See `Place.resting`."""
        async with AsyncExitStack() as stack:
            try:
                for name in names:
                    stack.callback(FileLock(self._file(name)).release)
            except Conflict:
                await stack.aclose()
                yield None
            except OSError as error:
                raise LairError(f"{self}: {error.strerror}. It must be locked while it is copied.") from error
            else:
                yield _locked

    @asynccontextmanager
    async def writing(self, names: Sequence[str]) -> AsyncIterator[dict[str, Store]]:
        """See `Place.writing`."""
        async with AsyncExitStack() as stack:
            stores = dict[str, Store]()
            for name in names:
                store = await open_sqlite(self._file(name))
                stack.push_async_callback(store.close)
                stores[name] = store
            yield stores

    def how_to_empty(self, names: Sequence[str]) -> str:
        """See `Place.how_to_empty`."""
        return f"move {', '.join(f'{name}.db*' for name in names)} out of it"


class EtcdPrefix:
    """A prefix of etcd's keys."""

    def __init__(self, address: EtcdAddress) -> None:
        self._address = address

    def __str__(self) -> str:
        return f"etcd://{','.join(sorted(self._address.endpoints))}{self._address.prefix}"

    @asynccontextmanager
    async def reading(self, names: Sequence[str]) -> AsyncIterator[dict[str, Readable]]:
        """See `Place.reading`."""
        from sourcelair.store.etcd import EtcdStore

        async with AsyncExitStack() as stack:
            stores = dict[str, Readable]()
            for name in names:
                store = EtcdStore(self._address, name)
                stack.push_async_callback(store.close)
                stores[name] = store
            yield stores

    async def _holder(self) -> str | None:
        """Return who is at work; None if nobody is."""
        from sourcelair.store.etcd import EtcdStore
        from sourcelair.store.etcd.claim import SEATS, holder_of

        control = EtcdStore(self._address, "control")
        try:
            page = await control.list(SEATS)
        finally:
            await control.close()
        return str(holder_of(page.entries[0])) if page.entries else None

    @asynccontextmanager
    async def _holding(self, names: Sequence[str]) -> AsyncIterator[dict[str, Store]]:
        from sourcelair.store.etcd import EtcdStores, Holder

        me = Holder(f"copy-{secrets.token_hex(8)}", socket.gethostname(), os.getpid())
        async with (
            EtcdStores(self._address, me) as stores,
            stores.hold(names, say=lambda _: None, lost=lambda _: None) as held,
        ):
            yield dict(held)

    @asynccontextmanager
    async def resting(self, names: Sequence[str]) -> AsyncIterator[Proof | None]:
        """See `Place.resting`."""
        if await self._holder() is not None:
            yield None
            return
        async with self._holding(names) as stores:

            async def prove() -> None:
                await stores[names[0]].transact([], [])  # it compares who has the seat, as each write does

            yield prove

    @asynccontextmanager
    async def writing(self, names: Sequence[str]) -> AsyncIterator[dict[str, Store]]:
        """See `Place.writing`."""
        if (holder := await self._holder()) is not None:
            raise Conflict(f"{self} is in use: {holder} is at work there. Stop that first.")
        async with self._holding(names) as stores:
            yield stores

    def how_to_empty(self, names: Sequence[str]) -> str:
        """See `Place.how_to_empty`. Each store's keys begin with the prefix, its name and a colon."""
        return f"`etcdctl del --prefix {self._address.prefix}/`" if names else ""


async def _locked() -> None:
    """Do nothing: a locked file is ours until it is let go, however long we were paused."""


def place_of(text: str) -> Place:
    """Return the place that a person named: a directory, or `etcd://HOST:PORT/PREFIX` as `etcd.address` says.

    Raises:
        InvalidInput: it can't be one.
    """
    if text.startswith("etcd://"):
        from sourcelair.store.etcd import parse_address  # gRPC is large, and few need it

        return EtcdPrefix(parse_address(text))
    if "://" in text:
        raise InvalidInput(f"{text.partition('://')[0]}:// is no kind of store; there are directories, and etcd://.")
    return Directory(Path(text))
