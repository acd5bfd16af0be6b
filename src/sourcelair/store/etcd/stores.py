"""All stores of one control plane, once it is their owner."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from sourcelair.errors import LairError, Unavailable
from sourcelair.store.etcd.address import EtcdAddress
from sourcelair.store.etcd.ownership import KEY, Owner, Ownership
from sourcelair.store.etcd.store import EtcdStore, Fence

PAUSE = 1.0
"""Seconds before etcd is asked again where it does not answer."""


@asynccontextmanager
async def open_etcd(
    address: EtcdAddress,
    names: Sequence[str],
    owner: Owner,
    *,
    say: Callable[[str], None],
    lost: Callable[[LairError], None],
) -> AsyncIterator[dict[str, EtcdStore]]:
    """Open the stores of an installation, for as long as nobody else is their owner.

    Args:
        address: of the cluster, and the prefix that they share.
        names: of the stores.
        owner: who opens them.
        say: told, for a person, what is being waited for: etcd, or another owner.
        lost: called when somebody else may be the owner; nothing of ours is written any more by then.

    Raises:
        LairError: etcd refuses whoever this is.
    """
    async with AsyncExitStack() as stack:
        control = EtcdStore(address, "control")
        stack.push_async_callback(control.close)
        ownership = Ownership(control, owner, say)
        revision = await _acquire(ownership, say)
        stack.push_async_callback(_release, ownership)
        keeping = asyncio.create_task(ownership.keep(), name="etcd ownership")
        stack.push_async_callback(_cancel, keeping)

        def ended(task: asyncio.Task[None]) -> None:
            if not task.cancelled() and isinstance(error := task.exception(), LairError):
                lost(error)

        keeping.add_done_callback(ended)
        stores = {}
        for name in names:
            stores[name] = EtcdStore(address, name, Fence(control, KEY, revision, lost))
            stack.push_async_callback(stores[name].close)
        yield stores


async def _acquire(ownership: Ownership, say: Callable[[str], None]) -> int:
    said = ""
    while True:
        try:
            return await ownership.acquire()
        except Unavailable as error:
            if error.detail != said:
                said = error.detail
                say(f"{said} Trying again")
            await asyncio.sleep(PAUSE)


async def _release(ownership: Ownership) -> None:
    with contextlib.suppress(LairError):  # it runs out by itself
        await ownership.release()


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
