"""The agent of a node: registers, takes a snapshot, follows the watch, keeps its file, answers asks (PROTOCOL 4)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from tests.protocol.actors import WAIT, Actor, Refused, Steps
from tests.protocol.ceryx import Acknowledgement, Counts, Report, Route

if TYPE_CHECKING:
    from tests.protocol.node import Nginx, Node
    from tests.protocol.world import World


class Agent:
    """Runs one session after another: a new one whenever it was killed, or NGINX is another generation."""

    def __init__(self, world: World, node: Node) -> None:
        self.world, self.node = world, node
        self.actor: Actor | None = None
        self.applied = 0
        self.received = 0
        self.told: dict[tuple[str, int], Counts] = {}
        self.reported: Report | None = None

    def start(self) -> None:
        """Start the agent's process."""
        self.actor = self.world.spawn(f"agent {self.node.name}", self._supervise())

    def kill(self) -> None:
        """kill -9: what it had sent already may still arrive."""
        if self.actor is not None:
            self.actor.kill()
            self.actor = None

    def _supervise(self) -> Steps:
        while True:
            try:
                yield from self._session()
            except Refused:
                yield

    def _session(self) -> Steps:
        world, node, ceryx = self.world, self.node, self.world.ceryx
        nginx = node.nginx
        node.sessions += 1
        session = node.sessions
        self.applied, self.received, self.told, self.reported = 0, 0, {}, None
        yield
        loaded = nginx.hello(session)
        nginx.look_anew()
        yield
        if not ceryx.up and not loaded and node.file is not None:
            # The last known routes, into an empty table only.
            yield from self._apply(nginx, session, list(node.file.values()))
            nginx.loaded = True
            yield
        if world.mutation == "snapshot before registering":
            routes, revision = yield from world.call("snapshot", ceryx.snapshot, lambda: ceryx.up)
        yield from world.call(f"register {node.name}", lambda: ceryx.register(node.name), lambda: ceryx.up)
        if world.mutation != "snapshot before registering":
            routes, revision = yield from world.call("snapshot", ceryx.snapshot, lambda: ceryx.up)
        node.file = dict(routes)
        yield
        yield from self._apply(nginx, session, list(routes.values()))
        nginx.loaded = True
        self.applied = self.received = revision
        stream = ceryx.incarnation
        yield
        while nginx is node.nginx:
            moved = False
            if stream != ceryx.incarnation:
                # A new stream of asks: whatever was told to the Ceryx before may be lost.
                stream, self.told = ceryx.incarnation, {}
            if ceryx.up:
                moved |= yield from self._follow(nginx, session)
                moved |= yield from self._answer(nginx)
                moved |= yield from self._report(nginx)
            yield None if moved else WAIT

    def _apply(self, nginx: Nginx, session: int, routes: list[Route]) -> Steps:
        def change() -> None:
            if not nginx.alive:
                raise Refused("gone")
            if nginx.session != session and self.world.mutation != "no fence in the table":
                raise Refused("stale session")
            for route in routes:
                now = nginx.table.get(route.source)
                fresh = now is None or now.revision < route.revision
                if not fresh and self.world.mutation != "no fence in the table":
                    continue
                nginx.table[route.source] = route
                self.world.published(self.node, route)

        yield from self.world.call(f"apply on {self.node.name}", change)

    def _follow(self, nginx: Nginx, session: int) -> Steps:
        route = self.world.ceryx.change_after(self.received)
        if route is None:
            return False
        self.received = route.revision
        yield
        if self.world.mutation != "no journal" and self.node.file is not None:
            self.node.file[route.source] = route
            yield
        if self.world.mutation == "acknowledge before applying":
            yield from self._answer(nginx)
        yield from self._apply(nginx, session, [route])
        self.applied = route.revision
        return True

    def _answer(self, nginx: Nginx) -> Steps:
        """Answer asks, and again whenever the counts have changed."""
        ceryx, name = self.world.ceryx, self.node.name
        reached = self.received if self.world.mutation == "acknowledge before applying" else self.applied
        for instance, revision in list(ceryx.asks.items()):
            if revision > reached:
                continue
            if not nginx.alive:
                raise Refused("gone")
            counts = nginx.counts(instance)
            if self.told.get((instance, revision)) == counts:
                continue
            self.told[instance, revision] = counts
            self.world.promised(self.node, instance, revision)
            yield
            ack = Acknowledgement(nginx.generation, instance, revision, counts)
            yield from self.world.call(f"ack of {name}", partial(ceryx.acknowledge, name, ack), lambda: ceryx.up)
            return True
        return False

    def _report(self, nginx: Nginx) -> Steps:
        ceryx, name = self.world.ceryx, self.node.name
        report = Report(nginx.generation, {instance: nginx.counts(instance) for instance in nginx.total})
        if report == self.reported and name in ceryx.reports:
            return False
        self.reported = report
        yield from self.world.call(f"report of {name}", lambda: ceryx.report(name, report), lambda: ceryx.up)
        return True
