"""The stores of an installation in etcd: those of a service belong to who has its seat."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from types import TracebackType
from typing import Self

from sourcelair.errors import LairError, Unavailable
from sourcelair.store.etcd.address import EtcdAddress
from sourcelair.store.etcd.claim import Claim, Holder, seat_key
from sourcelair.store.etcd.seats import Seats
from sourcelair.store.etcd.store import EtcdStore, Fence

PAUSE = 1.0
"""Seconds before etcd is asked again where it does not answer."""


class EtcdStores:
    """All stores under one prefix; an async context manager.

    Args:
        address: of the cluster, and the prefix that they share.
        holder: this process.
    """

    def __init__(self, address: EtcdAddress, holder: Holder) -> None:
        self._address = address
        self._holder = holder
        self._control = EtcdStore(address, "control")
        self._stack = AsyncExitStack()
        self._shared: dict[str, EtcdStore] = {}
        self.seats: Seats = Seats(self._control)

    async def __aenter__(self) -> Self:
        self._stack.push_async_callback(self._control.close)
        self._stack.push_async_callback(_cancel, asyncio.create_task(self.seats.run(), name="etcd seats"))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def shared(self, name: str) -> EtcdStore:
        """Open a store that every process may write to; its writes have conditions of their own."""
        store = self._shared.get(name)
        if store is None:
            store = self._shared[name] = EtcdStore(self._address, name)
            self._stack.push_async_callback(store.close)
        return store

    @asynccontextmanager
    async def hold(
        self,
        services: Sequence[str],
        *,
        say: Callable[[str], None],
        lost: Callable[[LairError], None],
    ) -> AsyncIterator[dict[str, EtcdStore]]:
        """Open the stores of some services, for as long as nobody else acts for them.

        Args:
            services: each has one store, of its name.
            say: told, for a person, what is being waited for: etcd, or another process.
            lost: called when somebody else may act for one of them; nothing of ours is written any more by then.

        Raises:
            LairError: etcd refuses whoever this is.
        """
        async with AsyncExitStack() as stack:
            claim = Claim(self._control, self._holder, services, say)
            stack.push_async_callback(_release, claim)  # also of one whose answer is not waited for any more
            revision = await _acquire(claim, say)
            keeping = asyncio.create_task(claim.keep(), name="etcd claim")
            stack.push_async_callback(_cancel, keeping)

            def ended(task: asyncio.Task[None]) -> None:
                if not task.cancelled() and isinstance(error := task.exception(), LairError):
                    lost(error)

            keeping.add_done_callback(ended)
            stores = {}
            for name in services:
                fence = Fence(self._control, seat_key(name), revision, lost)
                stores[name] = EtcdStore(self._address, name, fence)
                stack.push_async_callback(stores[name].close)
            yield stores


async def _acquire(claim: Claim, say: Callable[[str], None]) -> int:
    said = ""
    while True:
        try:
            return await claim.acquire()
        except Unavailable as error:
            if error.detail != said:
                said = error.detail
                say(f"{said} Trying again")
            await asyncio.sleep(PAUSE)


async def _release(claim: Claim) -> None:
    with contextlib.suppress(LairError):  # it runs out by itself
        await claim.release()


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
