"""Transactions, as many in one as come together.

A commit costs three members a sync each, and ourselves a call; so a hundred callers pay for one together, and one alone
waits for nobody. Each keeps its own conditions: where they do not hold, the others go on without it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sourcelair.errors import LairError, OutOfSpace, Unavailable
from sourcelair.store.base import Compare, CompareFailed, Operation, Put
from sourcelair.store.etcd import rpc_pb2 as rpc
from sourcelair.store.etcd.cluster import RANGE, TXN, Cluster
from sourcelair.store.etcd.keys import Keys
from sourcelair.store.etcd.together import Asked, Together

MAX_TXN_OPS = 128
"""What etcd takes in one transaction unless its `--max-txn-ops` says otherwise."""

MOST_BYTES = 1 << 20
"""Bytes of values that go together; etcd takes requests of 1.5 MiB. One caller may have more."""


@dataclass(frozen=True, slots=True)
class Done:
    """What a transaction did: `deleted` counts the keys that it removed and that were there."""

    revision: int
    deleted: int


@dataclass(slots=True)
class _Asked(Asked[Done]):
    """A caller's transaction."""

    compares: tuple[Compare, ...]
    operations: tuple[Operation, ...]

    @property
    def keys(self) -> set[str]:
        return {one.key for one in (*self.compares, *self.operations)}

    @property
    def size(self) -> int:
        return sum(len(one.value) for one in self.operations if isinstance(one, Put))

    @property
    def writes(self) -> bool:
        """Tell whether it needs room. Of what is refused for lack of it only a value shows whether it was done."""
        return any(isinstance(one, Put) for one in self.operations)


class Transactions:
    """All transactions of one store.

    Args:
        cluster: takes them.
        keys: of the store.
        fence: a condition of each of them.
        lost: is told that the fence does not hold any more.
    """

    def __init__(
        self, cluster: Cluster, keys: Keys, fence: rpc.Compare | None, lost: Callable[[LairError], None]
    ) -> None:
        self._cluster = cluster
        self._keys = keys
        self._fences = [] if fence is None else [fence]
        self._lost = lost
        self._together = Together[_Asked]("etcd transactions", self._send_next)
        self.finish = self._together.finish

    async def do(self, compares: Sequence[Compare], operations: Sequence[Operation]) -> Done:
        """Do all operations or none; see `Store.transact`."""
        asked = _Asked(tuple(compares), tuple(operations))
        self._together.add(asked)
        return await asked.answer

    async def _send_next(self) -> None:
        group = self._take()
        while group:
            group = await self._send(group)

    def _take(self) -> list[_Asked]:
        """Take those that may go together, in their order: as many as etcd takes, of one kind, no two with one key."""
        group, keys = list[_Asked](), set[str]()
        compares, operations, size = len(self._fences), 0, 0
        while self._together.waiting:
            asked = self._together.waiting[0]
            if not asked.answer.done():  # else its caller was cancelled
                compares, operations = compares + len(asked.compares), operations + len(asked.operations)
                size += asked.size
                is_too_much = max(compares, operations) > MAX_TXN_OPS or size > MOST_BYTES
                if group and (is_too_much or asked.keys & keys or asked.writes != group[0].writes):
                    break
                group.append(asked)
                keys |= asked.keys
            self._together.waiting.popleft()
        return group

    async def _send(self, group: list[_Asked]) -> list[_Asked]:
        """Answer all but those who have to go once more, now and before anybody else; these are returned."""
        try:
            answer = await self._cluster.call(
                TXN, self._request(group), repeatable=not any(a.operations for a in group)
            )
            if not answer.succeeded:
                return self._refuse(group, [response.response_range for response in answer.responses])
            _settle(group, answer)
        except OutOfSpace as error:
            await self._settle_in_doubt(group, error)
        except Unavailable as error:
            for asked in group:
                asked.refuse(error)
            self._together.refuse_overdue(error)
        except Exception as error:
            if len(group) > 1:  # perhaps because of one of them
                await self._send_each(group)
            else:
                group[0].refuse(error)
        return []

    async def _send_each(self, group: list[_Asked]) -> None:
        for asked in group:
            if asked.answer.done():  # its caller was cancelled meanwhile
                continue
            await self._send([asked])
            error = asked.answer.exception() if asked.answer.done() and not asked.answer.cancelled() else None
            if isinstance(error, Unavailable):
                for other in group:
                    other.refuse(error)

    def _request(self, group: list[_Asked]) -> rpc.TxnRequest:
        compares = (self._keys.condition(one.key, one.mod_revision) for asked in group for one in asked.compares)
        demands = [*self._fences, *compares]
        return rpc.TxnRequest(
            compare=demands,
            success=[self._operation(one) for asked in group for one in asked.operations],
            failure=[rpc.RequestOp(request_range=rpc.RangeRequest(key=one.key, keys_only=True)) for one in demands],
        )

    async def _settle_in_doubt(self, group: list[_Asked], error: OutOfSpace) -> None:
        """Look whether each was done: whoever crosses the quota is refused after it was written."""
        for asked in group:
            put = next((one for one in asked.operations if isinstance(one, Put)), None)
            if put is None or asked.answer.done():
                asked.refuse(error)
                continue
            request = rpc.RangeRequest(key=self._keys.of(put.key))
            try:
                found = (await self._cluster.call(RANGE, request, repeatable=True)).kvs
            except Exception as unanswered:
                for other in group:
                    other.refuse(unanswered)
                return
            if found and found[0].value == put.value:
                asked.settle(Done(found[0].mod_revision, 0))
            else:
                asked.refuse(error)

    def _refuse(self, group: list[_Asked], found: Sequence[rpc.RangeResponse]) -> list[_Asked]:
        """Refuse those whose conditions do not hold, and return the others, whose conditions did."""
        revisions = [one.kvs[0].mod_revision if one.kvs else 0 for one in found]
        if self._fences and revisions.pop(0) != self._fences[0].mod_revision:
            error = Unavailable("Another control plane has taken over: nothing was written.")
            self._lost(error)
            raise error
        going, at = list[_Asked](), 0
        for asked in group:
            actual = dict(zip(asked.compares, revisions[at : at + len(asked.compares)], strict=True))
            at += len(asked.compares)
            failed = next((one for one, revision in actual.items() if revision != one.mod_revision), None)
            if failed is None:
                going.append(asked)
            else:
                asked.refuse(CompareFailed(failed.key, actual[failed]))
        if len(going) == len(group):
            raise Unavailable("etcd refused conditions that hold.")
        return [asked for asked in going if not asked.answer.done()]

    def _operation(self, operation: Operation) -> rpc.RequestOp:
        key = self._keys.of(operation.key)
        if isinstance(operation, Put):
            return rpc.RequestOp(request_put=rpc.PutRequest(key=key, value=operation.value, lease=operation.lease or 0))
        return rpc.RequestOp(request_delete_range=rpc.DeleteRangeRequest(key=key))


def _settle(group: list[_Asked], answer: rpc.TxnResponse) -> None:
    at = 0
    for asked in group:
        responses = answer.responses[at : at + len(asked.operations)]
        at += len(asked.operations)
        deleted = sum(one.response_delete_range.deleted for one in responses)
        asked.settle(Done(answer.header.revision, deleted))
