"""The store: a small, revisioned key-value interface, embedded (SQLite) or clustered (etcd)."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from sourcelair.errors import InvalidInput, LairError
from sourcelair.store.base import Store
from sourcelair.store.sqlite import open_sqlite

__all__ = ["open_stores"]


@asynccontextmanager
async def open_stores(
    location: Path | str,
    names: Sequence[str],
    *,
    installation: str = "",
    say: Callable[[str], None] = lambda _: None,
    lost: Callable[[LairError], None] = lambda _: None,
) -> AsyncIterator[dict[str, Store]]:
    """Open the stores of an installation, making what is missing.

    Args:
        location: a directory: one file for each store (SQLite), for this process alone. Or `etcd://HOST:PORT/PREFIX`,
            see `etcd.address`: for one process at a time.
        names: of the stores.
        installation: whose stores they are: who has its data directory follows its last process at once.
        say: told, for a person, what is being waited for.
        lost: called when another process may be the owner of the stores by now; nothing can be written any more.

    Raises:
        Conflict: another process has a file open.
        LairError: it is no store of ours, or a newer version's, or can't be read; the message says what to do.
    """
    text = str(location)
    async with AsyncExitStack() as stack:
        stores: dict[str, Store] = {}
        if text.startswith("etcd://"):
            from sourcelair.store.etcd import Owner, open_etcd, parse_address  # gRPC is large, and few need it

            owner = Owner(installation, socket.gethostname(), os.getpid())
            stores |= await stack.enter_async_context(open_etcd(parse_address(text), names, owner, say=say, lost=lost))
        elif "://" in text:
            raise InvalidInput(f"store: {text.partition('://')[0]}:// is no kind of store; there is etcd://.")
        else:
            for name in names:
                store = stores[name] = await open_sqlite(Path(text) / f"{name}.db")
                stack.push_async_callback(store.close)
        yield stores
