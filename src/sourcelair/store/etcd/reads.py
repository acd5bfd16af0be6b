"""Reads of single keys, as many in one call as come together: each would cost the members a round of their own."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

from sourcelair.errors import OutOfSpace, Unavailable
from sourcelair.store.etcd import rpc_pb2 as rpc
from sourcelair.store.etcd.cluster import RANGE, TXN, Cluster
from sourcelair.store.etcd.together import Asked, Together
from sourcelair.store.etcd.transactions import MAX_TXN_OPS


@dataclass(slots=True)
class _Key(Asked[rpc.KeyValue | None]):
    key: bytes


class Reads:
    """All reads of single keys of one store.

    Args:
        cluster: answers them.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._together = Together[_Key]("etcd reads", self._send)
        self.finish = self._together.finish

    async def get(self, key: bytes) -> rpc.KeyValue | None:
        """Return a key as it stood at some moment after this was called; None where it did not exist.

        Raises:
            Exception: see `Cluster.call`.
        """
        asked = _Key(key)
        self._together.add(asked)
        return await asked.answer

    async def _send(self) -> None:
        waiting = self._together.waiting
        group = [waiting.popleft() for _ in range(min(len(waiting), MAX_TXN_OPS))]
        try:
            for asked, found in zip(group, await self._read(group), strict=True):
                asked.settle(found.kvs[0] if found.kvs else None)
        except Exception as error:
            for asked in group:
                asked.refuse(error)
            if isinstance(error, Unavailable):
                self._together.refuse_overdue(error)

    async def _read(self, group: Sequence[_Key]) -> list[rpc.RangeResponse]:
        ranges = [rpc.RangeRequest(key=asked.key) for asked in group]
        if len(ranges) > 1:
            request = rpc.TxnRequest(success=[rpc.RequestOp(request_range=one) for one in ranges])
            with contextlib.suppress(OutOfSpace):  # a full etcd takes no transaction, not even one that only reads
                answer = await self._cluster.call(TXN, request, repeatable=True)
                return [response.response_range for response in answer.responses]
        return [await self._cluster.call(RANGE, one, repeatable=True) for one in ranges]
