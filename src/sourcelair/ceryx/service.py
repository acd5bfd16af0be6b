"""Ceryx, put together: routes, nodes and withdrawals over one store, with everything in the background owned here."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Self

from sourcelair.auth import Identity
from sourcelair.ceryx.lists import RouteLists
from sourcelair.ceryx.nodes import Nodes
from sourcelair.ceryx.routes import MAX_BATCH, Routes, Written
from sourcelair.ceryx.validation import check_identifier, clean_writes
from sourcelair.ceryx.withdrawals import Withdrawals
from sourcelair.client.ceryx import BatchResult, RouteWrite
from sourcelair.errors import Forbidden, OutOfSpace, TooLarge
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
        self.lists = RouteLists(store)
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
            OutOfSpace: a node has no room: the detail says whether the routes are stored nevertheless.
            LairError: those of `clean_writes` and of `Routes.write`.
        """
        identity.require_admin()
        if manager is not None:
            check_identifier("managed_by", manager)
            if identity.kind != "service":
                raise Forbidden("managed_by: only a service manages routes.")
        if len(writes) > MAX_BATCH:
            raise TooLarge(f"A batch has {MAX_BATCH} writes at most.")
        cleaned = await clean_writes(writes, manager)
        written = await self.routes.write(cleaned, manager, self.nodes.capacity())
        # The SourceLair API writes all its routes before the nodes of its own machine speak (decision 0005): nobody
        # could ever answer what these writes would wait for.
        served = await self.nodes.served(written.revision, self._served_wait, recalled=manager is None)
        refusing = self.nodes.refusing([write.source for write in cleaned if write.route], written.revision)
        if refusing:
            await self._refused(cleaned, manager, written, refusing)
        result = BatchResult(
            revision=written.revision, served=served and not refusing, transactions=written.transactions
        )
        return result, cleaned

    async def _refused(
        self, writes: Sequence[RouteWrite], manager: str | None, written: Written, refusing: Mapping[str, str]
    ) -> None:
        """Tell the writer that a node has no room, and take new routes back: nobody could reach them.

        What changed routes that were there stays as it is written: taking back a withdrawal would publish its target.
        A manager is told by `served` alone, since it writes again and again until it is told that it has written.
        """
        source, node = next(iter(refusing.items()))
        remedy = "raise route_table_bytes on the node, or delete routes."
        if written.created and await self.routes.take_back([write.source for write in writes], written.revision):
            raise OutOfSpace(f"The proxy node {node} has no room for {source}: nothing was stored; {remedy}")
        if manager is None:
            raise OutOfSpace(
                f"The proxy node {node} has no room for {source}: stored at revision {written.revision}, and served "
                f"once there is room; {remedy}",
                source=source,
                revision=written.revision,
            )
