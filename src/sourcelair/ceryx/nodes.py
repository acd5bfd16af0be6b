"""Proxy nodes: durable registrations, leases, what each node reported, and who waits until a revision is served.

A registration lies in the store; all else is memory, and is reported anew after a restart of Ceryx. A node whose lease
has run out is *silent*, not gone: it may still be serving, so it stays registered until an operator removes it.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from sourcelair.ceryx import metrics
from sourcelair.ceryx.counts import NodeCounts
from sourcelair.ceryx.models import NODES, SCHEMA, node_key, record_of
from sourcelair.client.ceryx import Node, NodeReport
from sourcelair.errors import Conflict, NotFound
from sourcelair.store.base import CompareFailed, Store
from sourcelair.telemetry import get_logger

_log = get_logger(__name__)


@dataclass(slots=True)
class NodeState:
    """One registered node. `heard` is the clock's time of its last word; `applied` -1 where it has not said so yet.

    `home` is an id of the one that has this name; None where it gave none.
    """

    name: str
    registered_revision: int
    heard: float
    home: str | None = None
    live: bool = True
    session: int = 0
    generation: str | None = None
    applied: int = -1
    routes: int | None = None
    capacity: int | None = None
    loaded: bool = False
    held: int | None = None
    connections: int | None = None
    is_doubtful: bool = False
    """It may not be stored any more: to register it writes it down again."""
    recalled: bool = False
    """Known from the store only: it has not said a word since this service began."""
    refused: dict[str, int] = field(default_factory=dict)
    """The routes for which its NGINX has no room, with the revision at which each was refused."""
    counts: NodeCounts = field(default_factory=NodeCounts)

    @property
    def serves(self) -> int:
        """Return the revision that its visitors see: none while its table is not loaded."""
        return self.applied if self.loaded else -1


def check_home(name: str, known: str | None, home: str | None) -> None:
    """Raise Conflict where a node's name is another one's."""
    if None not in {known, home} and known != home:
        raise Conflict(
            f"Another proxy node is called {name}: give each a name of its own with --node. If that one is gone for "
            f"good, `lair nodes rm {name}` forgets it."
        )


class Nodes:
    """All registered nodes.

    Args:
        store: where registrations lie, under `/nodes/`.
        lease: seconds after which a node that says nothing is silent.
        clock: monotonic seconds; tests bring their own.
    """

    def __init__(self, store: Store, lease: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._lease = lease
        self._clock = clock
        self._nodes: dict[str, NodeState] = {}
        self._waiting: dict[bool, list[tuple[int, int, asyncio.Future[bool]]]] = {False: [], True: []}
        """Who waits until a revision is served; apart those who wait for recalled nodes too."""
        self._closed = False
        self._order = itertools.count()
        self._some = asyncio.Event()
        self.on_change: Callable[[], None] = lambda: None
        """Called when the set of nodes, a generation, or who is silent has changed."""

    async def load(self) -> None:
        """Read the registrations. Each gets a lease anew: it has had nobody to speak to."""
        page = await self._store.list(NODES)
        for entry in page.entries:
            home = record_of(entry).get("home")
            self._add(entry.key.removeprefix(NODES), entry.create_revision, home).recalled = True

    def _add(self, name: str, revision: int, home: str | None) -> NodeState:
        node = self._nodes[name] = NodeState(name, revision, self._clock(), home)
        self._some.set()
        self._changed()
        return node

    def all(self) -> Sequence[NodeState]:
        """Return every registered node, in the order of their names."""
        return [self._nodes[name] for name in sorted(self._nodes)]

    def get(self, name: str) -> NodeState:
        """Return one node. Raises NotFound: it was removed, or was never there."""
        node = self._nodes.get(name)
        if node is None:
            raise NotFound(f"No node is registered as {name[:80]}: register it first.")
        return node

    def show(self, revision: int) -> list[Node]:
        """Return all nodes as the API shows them; `lag` is how far they are behind a revision of the store."""
        return [self.view(node, revision) for node in self.all()]

    def view(self, node: NodeState, revision: int | None = None) -> Node:
        """Return one node as the API shows it."""
        known = node.applied >= 0
        return Node(
            node=node.name,
            state="live" if node.live else "silent",
            registered_revision=node.registered_revision,
            generation=node.generation,
            applied=node.applied if known else None,
            routes=node.routes,
            capacity=node.capacity,
            held=node.held,
            connections=node.connections,
            lag=max(0, revision - node.applied) if known and revision is not None else None,
        )

    def capacity(self) -> int | None:
        """Return how many routes fit into the smallest live node; None where none has said so."""
        return min((node.capacity for node in self._nodes.values() if node.live and node.capacity), default=None)

    def refusing(self, sources: Iterable[str], revision: int) -> dict[str, str]:
        """Return which of these routes a live node has no room for as they are since a revision, and that node."""
        live = [node for node in self._nodes.values() if node.live and node.refused]
        return (
            {source: node.name for source in sources for node in live if node.refused.get(source, -1) >= revision}
            if live
            else {}
        )

    async def register(self, name: str, home: str | None = None) -> NodeState:
        """Register a node, durably; one that is registered already stays as it is.

        Args:
            name: of the node.
            home: an id of where it keeps what it knows; None where it has none.

        Raises:
            Conflict: another node has this name: what one of them promises would count for both.
        """
        node = self._nodes.get(name)
        if node is None or node.is_doubtful:
            # Who asked may be cancelled meanwhile; what is stored and what is known here must not part.
            node = await asyncio.shield(asyncio.ensure_future(self._make(name, home)))
        check_home(name, node.home, home)
        self._hear(node)
        return node

    async def _make(self, name: str, home: str | None) -> NodeState:
        record = json.dumps({"schema": SCHEMA, "home": home}).encode()
        try:
            revision = await self._store.put(node_key(name), record, expect=0)
        except CompareFailed as known:
            entry = await self._store.get(node_key(name))
            revision = entry.create_revision if entry else known.mod_revision
            home = record_of(entry).get("home") if entry else home
        node = self._nodes.get(name) or self._add(name, revision, home)
        node.registered_revision, node.is_doubtful = revision, False
        _log.info("node_registered", node=name, revision=revision)
        # What it was called before: who has that home speaks for its NGINX now, and nobody else ever will.
        for other in [one for one in self._nodes.values() if one is not node and one.home and one.home == node.home]:
            await self._forget(other.name)
            _log.info("node_renamed", node=name, was=other.name)
        return node

    async def remove(self, name: str) -> None:
        """Forget a node that is dead; nobody waits for its word any more, and its next report is refused.

        Raises:
            NotFound: there is no such node.
            Conflict: it is live.
        """
        node = self.get(name)
        self.expire()
        if node.live:
            raise Conflict(
                f"The node {name} is live: stop it first, and remove it once it is silent ({self._lease:g} seconds)."
            )
        await self._forget(name)
        _log.info("node_removed", node=name)

    async def _forget(self, name: str) -> None:
        node = self._nodes.get(name)
        if node is not None:
            node.is_doubtful = True  # for as long as nobody knows whether it is deleted
        await self._store.delete(node_key(name))
        self._nodes.pop(name, None)
        metrics.forget_node(name)
        self._changed()

    def report(self, name: str, report: NodeReport) -> None:
        """Take in what a node says of itself.

        Raises:
            NotFound: it was removed: its agent must register anew, and what it knows is void.
            Conflict: a newer agent of this node has reported already.
        """
        node = self.get(name)
        if report.session < node.session:
            raise Conflict(f"A newer agent of {name} is at work (session {node.session}).", session=node.session)
        anew = node.generation != report.generation
        if anew:
            node.counts.begin_generation()
        node.session = report.session
        node.generation = report.generation
        node.applied = report.applied
        node.routes = report.routes
        node.capacity = report.capacity
        node.loaded = report.loaded
        node.held, node.connections = report.held, report.connections
        metrics.show_node(name, report.held, report.connections)
        node.refused = {item.source: item.revision for item in report.refused}
        node.counts.update(report.counts)
        self._hear(node)
        if anew:
            self._changed()
        else:
            self._release()

    def _hear(self, node: NodeState) -> None:
        node.heard = self._clock()
        node.recalled = False
        if not node.live:
            node.live = True
            _log.info("node_live_again", node=node.name)
            self._changed()

    def expire(self) -> float | None:
        """Mark the nodes as silent whose lease has run out; return the seconds until the next one may."""
        now = self._clock()
        silenced = [node for node in self._nodes.values() if node.live and now - node.heard >= self._lease]
        for node in silenced:
            node.live, node.held, node.connections = False, None, None
            metrics.forget_node(node.name)
            _log.warning("node_silent", node=node.name, lease=self._lease)
        if silenced:
            self._changed()
        return min((self._lease - (now - node.heard) for node in self._nodes.values() if node.live), default=None)

    async def keep_leases(self) -> None:
        """Expire leases when they run out, for ever."""
        while True:
            pause = self.expire()
            if pause is None:
                self._some.clear()
                try:
                    # A silent node that speaks again sets nothing: look again after a lease at the latest.
                    async with asyncio.timeout(self._lease):
                        await self._some.wait()
                except TimeoutError:
                    continue
            else:
                await asyncio.sleep(max(pause, 0.001))

    async def served(self, revision: int, wait: float, *, recalled: bool = True) -> bool:
        """Wait until every live node serves a revision.

        Args:
            revision: of the store.
            wait: seconds at most.
            recalled: wait also for nodes that have not said a word since this service began, until their lease ends:
                they serve visitors, and will speak as soon as they can.

        Returns:
            whether they do; False too while no node is live.
        """
        floor = self._floor(recalled=recalled)
        if floor is None or floor >= revision or wait <= 0 or self._closed:
            return floor is not None and floor >= revision
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting[recalled], (revision, next(self._order), future))
        started = time.perf_counter()
        try:
            async with asyncio.timeout(wait):
                result = await future
        except TimeoutError:
            return False
        metrics.SERVED_SECONDS.observe(time.perf_counter() - started)
        return result

    def _floor(self, *, recalled: bool) -> int | None:
        """Return the revision that every live node serves; None where no node is live."""
        asked = (node for node in self._nodes.values() if node.live and (recalled or not node.recalled))
        return min((node.serves for node in asked), default=None)

    def _release(self) -> None:
        for recalled, waiting in self._waiting.items():
            floor = self._floor(recalled=recalled)
            while waiting and (floor is None or waiting[0][0] <= floor or waiting[0][2].done()):
                revision, _, future = heapq.heappop(waiting)
                if not future.done():
                    future.set_result(floor is not None and revision <= floor)

    def _changed(self) -> None:
        live = sum(node.live for node in self._nodes.values())
        metrics.NODES.labels("live").set(live)
        metrics.NODES.labels("silent").set(len(self._nodes) - live)
        self._release()
        self.on_change()

    def close(self) -> None:
        """Answer everyone who waits, and let nobody wait any more."""
        self._closed = True
        for waiting in self._waiting.values():
            while waiting:
                future = heapq.heappop(waiting)[2]
                if not future.done():
                    future.set_result(False)
