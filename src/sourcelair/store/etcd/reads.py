"""Reads of single keys, as many in one call as come together: each would cost the members a round of their own."""

from __future__ import annotations

from dataclasses import dataclass

from sourcelair.store.etcd import rpc_pb2 as rpc
from sourcelair.store.etcd.cluster import TXN, Cluster
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
        request = rpc.TxnRequest(
            success=[rpc.RequestOp(request_range=rpc.RangeRequest(key=asked.key)) for asked in group]
        )
        try:
            answer = await self._cluster.call(TXN, request, repeatable=True)
        except Exception as error:
            for asked in group:
                asked.refuse(error)
        else:
            for asked, response in zip(group, answer.responses, strict=True):
                found = response.response_range.kvs
                asked.settle(found[0] if found else None)
