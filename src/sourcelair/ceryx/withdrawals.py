"""The proof that no node sends an instance anything more: asked for while somebody waits, and never stored.

Whoever waits for a withdrawal makes Ceryx ask every registered node over its event stream; the agents answer, and
answer again when their counts change, until the ask ends. After a crash of anything it is simply asked again.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Literal

from sourcelair.ceryx.nodes import Nodes, NodeState
from sourcelair.client.ceryx import Acknowledgement, Ask, NodeAcknowledgement, Withdrawal
from sourcelair.errors import Conflict

Until = Literal["acknowledged", "drained", "quiet"]
AskEvent = tuple[Literal["ask", "end"], Ask]

MAX_KEPT = 50_000
"""Instances whose acknowledgements are kept after nobody waits for them any more."""

MAX_BACKLOG = 20_000
"""Events that a stream may be behind before it is closed; the node opens another, and is told what stands."""


@dataclass(eq=False, slots=True)
class _Waiter:
    revision: int
    until: Until
    done: asyncio.Future[None]


def is_met(state: Withdrawal, until: Until) -> bool:
    """Return whether a withdrawal has come as far as somebody waits for."""
    if until == "acknowledged":
        return state.acknowledged
    return state.drained if until == "drained" else state.drained_but_streams


class Withdrawals:
    """All withdrawals that somebody waits for.

    Args:
        nodes: whose word is needed: all that are registered.
    """

    def __init__(self, nodes: Nodes) -> None:
        self._nodes = nodes
        self._waiters: dict[str, set[_Waiter]] = {}
        self._asked: Counter[tuple[str, int]] = Counter()
        self._streams: dict[str, set[asyncio.Queue[AskEvent | None]]] = {}
        self._acknowledged: dict[str, dict[str, Acknowledgement]] = {}
        self._closed = False

    async def wait(self, instance: str, revision: int, until: Until, wait: float) -> Withdrawal:
        """Return how far every node has come, as soon as `until` is met or after `wait` seconds."""
        state = self.state(instance, revision)
        if wait <= 0 or self._closed or is_met(state, until):
            return state
        waiter = _Waiter(revision, until, asyncio.get_running_loop().create_future())
        self._waiters.setdefault(instance, set()).add(waiter)
        self._ask(Ask(instance=instance, revision=revision))
        try:
            async with asyncio.timeout(wait):
                await waiter.done
        except TimeoutError:
            pass
        finally:
            waiters = self._waiters[instance]
            waiters.discard(waiter)
            if not waiters:
                del self._waiters[instance]
            self._end(Ask(instance=instance, revision=revision))
        return self.state(instance, revision)

    def state(self, instance: str, revision: int) -> Withdrawal:
        """Return how far every registered node has come."""
        known = self._acknowledged.get(instance, {})
        return Withdrawal(
            instance=instance,
            revision=revision,
            nodes=[_of(node, known.get(node.name), revision) for node in self._nodes.all()],
        )

    def acknowledge(self, name: str, acknowledgements: Sequence[Acknowledgement]) -> None:
        """Take in a node's answers.

        Raises:
            NotFound: the node is not registered.
            Conflict: its NGINX is not the one that it reported last: report first.
        """
        node = self._nodes.get(name)
        touched = dict[str, None]()
        for item in acknowledgements:
            if item.generation != node.generation:
                raise Conflict(f"{name} has not reported the generation {item.generation[:80]}: report first.")
        for item in acknowledgements:
            known = self._acknowledged.pop(item.instance, {})
            last = known.get(name)
            if last is None or last.generation != item.generation or last.revision <= item.revision:
                known[name] = item
            self._acknowledged[item.instance] = known
            touched[item.instance] = None
        for instance in touched:
            self._look(instance)
        while len(self._acknowledged) > MAX_KEPT:
            del self._acknowledged[next(iter(self._acknowledged))]

    def nodes_changed(self) -> None:
        """Look at everyone who waits: a node came, went, fell silent or has a new NGINX."""
        for instance in list(self._waiters):
            self._look(instance)

    def _look(self, instance: str) -> None:
        for waiter in self._waiters.get(instance, ()):
            if not waiter.done.done() and is_met(self.state(instance, waiter.revision), waiter.until):
                waiter.done.set_result(None)

    def _ask(self, ask: Ask) -> None:
        self._asked[ask.instance, ask.revision] += 1
        if self._asked[ask.instance, ask.revision] == 1:
            self._tell(("ask", ask))

    def _end(self, ask: Ask) -> None:
        self._asked[ask.instance, ask.revision] -= 1
        if self._asked[ask.instance, ask.revision] <= 0:
            del self._asked[ask.instance, ask.revision]
            self._tell(("end", ask))
            # An agent keeps the newest ask of an instance only: say again what still stands for older ones.
            for revision in {waiter.revision for waiter in self._waiters.get(ask.instance, ())}:
                self._tell(("ask", Ask(instance=ask.instance, revision=revision)))

    def _tell(self, event: AskEvent) -> None:
        for queues in self._streams.values():
            for queue in queues:
                queue.put_nowait(event if queue.qsize() < MAX_BACKLOG else None)

    async def asks(self, name: str) -> AsyncGenerator[AskEvent, None]:
        """Give what a node is asked: first all that stands, then what comes and what ends.

        Raises:
            NotFound: at the first step: the node is not registered.
        """
        self._nodes.get(name)
        queue: asyncio.Queue[AskEvent | None] = asyncio.Queue()
        for instance, revision in self._asked:
            queue.put_nowait(("ask", Ask(instance=instance, revision=revision)))
        self._streams.setdefault(name, set()).add(queue)
        try:
            while (event := await queue.get()) is not None:
                yield event
        finally:
            streams = self._streams[name]
            streams.discard(queue)
            if not streams:
                del self._streams[name]

    def close(self) -> None:
        """Answer everyone who waits."""
        self._closed = True
        for waiters in self._waiters.values():
            for waiter in waiters:
                if not waiter.done.done():
                    waiter.done.set_result(None)


def _of(node: NodeState, known: Acknowledgement | None, revision: int) -> NodeAcknowledgement:
    """What one node's last acknowledgement is worth for a withdrawal at `revision`.

    One of an older withdrawal, or of an NGINX that is no more, is worth nothing. A silent node's counts can't be
    trusted to be new, unless they were zero: an instance that is withdrawn gets nothing more.
    """
    state: Literal["live", "silent"] = "live" if node.live else "silent"
    if known is None or known.revision < revision or known.generation != node.generation:
        return NodeAcknowledgement(node=node.name, state=state, acknowledged=False, generation=node.generation)
    return NodeAcknowledgement(
        node=node.name,
        state=state,
        acknowledged=node.live or known.in_flight == 0,
        generation=known.generation,
        in_flight=known.in_flight,
        streams=known.streams,
        idle_streams=known.idle_streams,
        flowing=known.flowing,
        total=known.total,
        robots=known.robots,
    )
