"""Ceryx, put together: routes, nodes and withdrawals over one store, with everything in the background owned here."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from sourcelair.auth import Identity
from sourcelair.ceryx.nodes import Nodes
from sourcelair.ceryx.routes import MAX_BATCH, Routes, clean_writes
from sourcelair.ceryx.validation import check_identifier
from sourcelair.ceryx.withdrawals import Withdrawals
from sourcelair.client.ceryx import BatchResult, RouteWrite
from sourcelair.errors import Forbidden, TooLarge
from sourcelair.settings import Settings
from sourcelair.store.base import Store


class CeryxService:
    """Ceryx's own work, without HTTP.

    Args:
        store: its own; the service neither opens nor closes it.
        settings: `served_wait` and `node_lease` are read.
        clock: monotonic seconds, for leases; tests bring their own.
    """

    def __init__(self, store: Store, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self._served_wait = settings.served_wait
        self.routes = Routes(store)
        self.nodes = Nodes(store, settings.node_lease, clock)
        self.withdrawals = Withdrawals(self.nodes)
        self.nodes.on_change = self.withdrawals.nodes_changed
        self.closing = asyncio.Event()
        """Set once the service closes: every stream and every long poll ends then."""
        self._store = store
        self._tasks: asyncio.TaskGroup | None = None
        self._leases: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self.routes.load()
        await self.nodes.load()
        self._tasks = await asyncio.TaskGroup().__aenter__()
        self._leases = self._tasks.create_task(self.nodes.keep_leases(), name="ceryx-leases")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close_streams()
        if self._leases is not None:
            self._leases.cancel()
        if self._tasks is not None:
            await self._tasks.__aexit__(None, None, None)

    def close_streams(self) -> None:
        """End all streams and long polls, at once. An HTTP server that waits for its answers needs this first."""
        self.closing.set()
        self.withdrawals.close()
        self.nodes.close()

    async def revision(self) -> int:
        """Return the store's current revision."""
        return await self._store.revision()

    async def write(
        self, identity: Identity, writes: Sequence[RouteWrite], manager: str | None = None
    ) -> tuple[BatchResult, list[RouteWrite]]:
        """Write routes, all or none, and wait until all live nodes serve them, but not for ever.

        Args:
            identity: who writes.
            writes: as they came.
            manager: on whose behalf; only a service may say so.

        Returns:
            the result, and the writes as they were stored.

        Raises:
            Forbidden: this token may not write routes, or not as a manager.
            LairError: those of `clean_writes` and of `Routes.write`.
        """
        identity.require_admin()
        if manager is not None:
            check_identifier("managed_by", manager)
            if identity.kind != "service":
                raise Forbidden("managed_by: only a service manages routes.")
        if len(writes) > MAX_BATCH:
            raise TooLarge(f"A batch has {MAX_BATCH} writes at most.")
        cleaned = clean_writes(writes, manager)
        revision = await self.routes.write(cleaned, manager, self.nodes.capacity())
        served = await self.nodes.served(revision, self._served_wait)
        return BatchResult(revision=revision, served=served), cleaned
