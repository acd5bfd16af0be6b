"""The store in a cluster: etcd's own revisions, transactions, leases and watches, under a prefix of its keys.

Others may write to the same cluster: revisions count their changes too, and a watch does not show them.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

from sourcelair.errors import HistoryCompacted, InvalidInput, LairError, Unavailable
from sourcelair.pacing import in_steps
from sourcelair.store.base import (
    Change,
    Compare,
    Delete,
    Entry,
    LeaseNotFound,
    Operation,
    Page,
    Put,
)
from sourcelair.store.etcd import rpc_pb2 as rpc
from sourcelair.store.etcd.address import EtcdAddress
from sourcelair.store.etcd.cluster import COMPACT, GRANT, KEEP_ALIVE, RANGE, REVOKE, Cluster, Interrupted
from sourcelair.store.etcd.keys import Keys
from sourcelair.store.etcd.reads import Reads
from sourcelair.store.etcd.transactions import MAX_TXN_OPS, Done, Transactions
from sourcelair.store.etcd.watching import watch
from sourcelair.store.limits import MAX_INTEGER, check_key, check_text, check_transaction

RENEWALS, RENEWAL = 3, 2.0
"""How often a renewal is tried, each time with another member, and the seconds that each has: well within a lease."""

PER_STEP = 2_000
"""Keys of a list that are taken out of etcd's answer in one step: about 5 ms of the event loop."""


def _unheard(_: LairError) -> None:
    """Nobody wants to know."""


@dataclass(frozen=True, slots=True)
class Fence:
    """A key that must be at a revision for anything to be written: see `claim`. `lost` is told where it is not."""

    store: EtcdStore
    key: str
    revision: int
    lost: Callable[[LairError], None] = _unheard


class EtcdStore:
    """A `Store` in etcd. It belongs to the event loop that opened it.

    Args:
        address: of the cluster.
        name: of this store: the stores of one installation share its prefix.
        fence: a store, a key in it and its revision, without which nothing is written.
    """

    def __init__(self, address: EtcdAddress, name: str, fence: Fence | None = None) -> None:
        self._cluster = Cluster(address)
        self._keys = Keys(f"{address.prefix}/{name}")
        condition = None if fence is None else fence.store._keys.condition(fence.key, fence.revision)
        self._reads = Reads(self._cluster)
        self._transactions = Transactions(self._cluster, self._keys, condition, fence.lost if fence else _unheard)
        self._closing = asyncio.Event()

    @property
    def most_operations(self) -> int:
        """See `Store.most_operations`. One of the conditions is the fence."""
        return MAX_TXN_OPS - 1

    @property
    def page_size(self) -> int:
        """See `Store.page_size`: for each page etcd walks over all keys to the end of the range."""
        return 10_000

    async def revision(self) -> int:
        """See `Store.revision`. It is the cluster's, which others may write to."""
        request = rpc.RangeRequest(key=self._keys.of(""), limit=1, keys_only=True)
        return (await self._cluster.call(RANGE, request, repeatable=True)).header.revision

    async def get(self, key: str) -> Entry | None:
        """See `Store.get`."""
        found = await self._reads.get(self._keys.of(check_key(key)))
        return None if found is None else self._keys.entry(found)

    async def list(self, prefix: str, *, revision: int | None = None, start_after: str = "", limit: int = 0) -> Page:
        """See `Store.list`."""
        if limit < 0:
            raise InvalidInput(f"limit: {limit} is negative; 0 means all.")
        first, end = self._keys.range(check_text("prefix", prefix), check_text("start_after", start_after))
        is_empty = first >= end
        request = rpc.RangeRequest(
            key=self._keys.of("") if is_empty else first,  # of an empty range only the revision is looked at
            range_end=b"" if is_empty else end,
            limit=min(limit, MAX_INTEGER),
            revision=0 if revision is None else min(max(revision, 1), MAX_INTEGER),
        )
        answer = await self._cluster.call(RANGE, request, repeatable=True)
        read_at = answer.header.revision if revision is None else revision
        entries = [self._keys.entry(found) async for found in in_steps(answer.kvs, PER_STEP)]
        return Page(tuple(entries), read_at, answer.more)

    async def put(self, key: str, value: bytes, *, expect: int | None = None, lease: int | None = None) -> int:
        """See `Store.put`."""
        compares = [] if expect is None else [Compare(key, expect)]
        return await self.transact(compares, [Put(key, value, lease)])

    async def delete(self, key: str, *, expect: int | None = None) -> bool:
        """See `Store.delete`."""
        compares = [] if expect is None else [Compare(key, expect)]
        return (await self._do(compares, [Delete(key)])).deleted > 0

    async def transact(self, compares: Sequence[Compare], operations: Sequence[Operation]) -> int:
        """See `Store.transact`. Others that come meanwhile may have the same revision."""
        return (await self._do(compares, operations)).revision

    async def _do(self, compares: Sequence[Compare], operations: Sequence[Operation]) -> Done:
        check_transaction(compares, operations)
        for operation in operations:
            if isinstance(operation, Put) and operation.lease is not None and not _may_be(operation.lease):
                raise LeaseNotFound(f"Lease {operation.lease} never was.")
        return await self._transactions.do(compares, operations)

    async def watch(self, prefix: str, from_revision: int) -> AsyncIterator[Change]:
        """See `Store.watch`."""
        changes = watch(self._cluster, self._keys, check_text("prefix", prefix), min(from_revision, MAX_INTEGER))
        closing = asyncio.ensure_future(self._closing.wait())
        coming: asyncio.Future[Change] | None = None
        try:
            while not self._closing.is_set():
                coming = asyncio.ensure_future(anext(changes))
                await asyncio.wait({coming, closing}, return_when=asyncio.FIRST_COMPLETED)
                if not coming.done():
                    return
                yield coming.result()
        finally:
            closing.cancel()
            if coming is not None and not coming.done():
                coming.cancel()
                await asyncio.wait([coming])
            await changes.aclose()

    async def grant_lease(self, ttl: float) -> int:
        """See `Store.grant_lease`. etcd counts whole seconds, and has a least of its own."""
        if not 0 < ttl < MAX_INTEGER:  # refuses NaN too
            raise InvalidInput(f"ttl: {ttl} is not a time in seconds above 0.")
        request = rpc.LeaseGrantRequest(ttl=math.ceil(ttl))
        return (await self._cluster.call(GRANT, request, repeatable=True)).id  # one too many runs out by itself

    async def renew_lease(self, lease: int) -> None:
        """See `Store.renew_lease`."""
        if not _may_be(lease):
            raise LeaseNotFound(f"Lease {lease} never was.")
        for _ in range(RENEWALS):
            endpoint = self._cluster.endpoint
            answers = self._cluster.stream(KEEP_ALIVE, rpc.LeaseKeepAliveRequest(id=lease))
            try:
                async with asyncio.timeout(RENEWAL):
                    answer = await anext(answers)
            except (Interrupted, TimeoutError):
                self._cluster.leave(endpoint)
            else:
                if answer.ttl <= 0:
                    raise LeaseNotFound(f"Lease {lease} has run out, or never was.")
                return
            finally:
                await answers.aclose()
        raise Unavailable("etcd does not renew the lease.", retry_after=1)

    async def revoke_lease(self, lease: int) -> None:
        """See `Store.revoke_lease`."""
        if _may_be(lease):
            with contextlib.suppress(LeaseNotFound):
                await self._cluster.call(REVOKE, rpc.LeaseRevokeRequest(id=lease), repeatable=True)

    async def compact(self, revision: int) -> None:
        """See `Store.compact`. It is the whole cluster's history."""
        with contextlib.suppress(HistoryCompacted):
            await self._cluster.call(
                COMPACT, rpc.CompactionRequest(revision=max(0, min(revision, MAX_INTEGER))), repeatable=True
            )

    async def close(self) -> None:
        """See `Store.close`."""
        self._closing.set()
        await asyncio.sleep(0)  # watches that wait end by themselves
        await self._transactions.finish()
        await self._reads.finish()
        await self._cluster.close()


def _may_be(lease: int) -> bool:
    return 0 < lease <= MAX_INTEGER
