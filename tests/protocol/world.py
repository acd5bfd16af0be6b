"""The whole world of the model: who is there, what breaks, and the promises that are checked at every step.

`mutation` names one deliberate mistake (see `test_mutants.py`), None is the protocol as it is written.
"""

from __future__ import annotations

from tests.protocol.actors import ProtocolViolation, Scheduler
from tests.protocol.agent import Agent
from tests.protocol.ceryx import Ceryx, Route
from tests.protocol.instances import Machine
from tests.protocol.node import Node, Request
from tests.protocol.servers import Api
from tests.protocol.sleeping import look


class World(Scheduler):
    """Servers `a` and `b` of two owners, a few ports, one node and room for a second.

    `streams` and `checks` are their policy; those in `windows` are in a window of their schedule now, those in `vetoes`
    do not agree to be put to sleep, and those in `broken` end before they are ready.
    """

    def __init__(self, *, mutation: str | None = None, ports: int = 2) -> None:
        super().__init__()
        self.mutation = mutation
        self.sources = ("a", "b")
        self.ports = range(1, ports + 1)
        self.ticks = 0
        self.streams = "always"
        self.checks = False
        self.windows: set[str] = set()
        self.vetoes: set[str] = set()
        self.broken: set[str] = set()
        self.requests: list[Request] = []
        self.promises: dict[tuple[str, str], tuple[int, set[Request]]] = {}
        self.machine = Machine(self)
        self.ceryx = Ceryx(mutation)
        self.nodes: list[Node] = []
        self.agents: list[Agent] = []
        self.api = Api(self)
        self.api.start()
        self.add_node()

    def add_node(self) -> None:
        """A proxy node joins."""
        node = Node(self, f"n{len(self.nodes) + 1}")
        agent = Agent(self, node)
        self.nodes.append(node)
        self.agents.append(agent)
        self.spawn(f"caller {node.name}", node.caller())
        self.spawn(f"reaper {node.name}", node.reaper())
        agent.start()

    def visit(self, node: int, worker: int, source: str, *, stream: bool = False) -> Request:
        """A visitor sends a request through a node."""
        request = self.nodes[node % len(self.nodes)].visit(worker, source, len(self.requests) + 1, stream=stream)
        self.requests.append(request)
        return request

    def promised(self, node: Node, instance: str, revision: int) -> None:
        """A node acknowledged: it opens no request to this instance until a publication above this revision.

        Requests that are counted at this moment are exempt: the acknowledgement says that they are in flight.
        """
        now = [route for route in node.nginx.table.values() if route.instance == instance]
        if not any(route.revision > revision for route in now):
            self.promises[node.name, instance] = (revision, node.covered(instance))

    def published(self, node: Node, route: Route) -> None:
        """A node's table has a new entry; a publication above the promise's revision ends the promise."""
        if route.instance is None:
            return
        for process in self.machine.instances.values():
            if process.alive and process.port == route.port and process.id != route.instance:
                raise ProtocolViolation(f"{node.name} routes port {route.port} to {route.instance}, now {process.id}'s")
        self.check_frozen()
        revision, _ = self.promises.get((node.name, route.instance), (None, None))
        if revision is not None:
            if route.revision <= revision:
                raise ProtocolViolation(f"{node.name} undoes its acknowledged withdrawal at {revision} by {route}")
            del self.promises[node.name, route.instance]

    def check_promises(self, request: Request, instance: str) -> None:
        """No request goes to an instance after this node's acknowledgement."""
        revision, exempt = self.promises.get((request.node.name, instance), (0, None))
        if exempt is not None and request not in exempt:
            raise ProtocolViolation(f"{request} goes to {instance}, withdrawn at {revision} and acknowledged")

    def check_port(self, port: int, instance: str) -> None:
        """A port is given to an instance only when no other runs there, and no node can still route to an older one."""
        for process in self.machine.instances.values():
            if process.alive and process.port == port:
                raise ProtocolViolation(f"port {port} has two owners: {process.id} and {instance}")
        for node in self.nodes:
            for route in node.nginx.table.values():
                if route.port == port and route.instance not in {None, instance}:
                    raise ProtocolViolation(
                        f"{node.name} still routes port {port} to {route.instance}, now {instance}'s"
                    )
            for request in node.requests:
                target = request.target
                if target is not None and target.port == port and target.instance != instance and not request.sent:
                    raise ProtocolViolation(f"{request} is on its way to {target.instance} on {instance}'s port {port}")

    def restart_crashed(self) -> None:
        """Everything that crashed is started again."""
        self.ceryx.up = True
        if not self.api.up:
            self.api.start()
        for agent in self.agents:
            if agent.actor is None:
                agent.start()

    def heal(self) -> None:
        """Everything that was frozen goes on, everything that crashed is started again, all listeners are back."""
        for actor in self.actors:
            actor.frozen = False
        self.holding.clear()
        self.restart_crashed()
        for process in self.machine.instances.values():
            process.deaf = False
        self.broken.clear()
        for request in self.requests:
            request.left = True

    def check_quiescence(self) -> None:
        """After finitely many steps all requests have ended, and a visit to any server through any node succeeds."""
        self.heal()
        self.settle()
        for source, record in self.api.records.items():
            if record.given_up:
                self.api.start_by_user(source)
        for _ in range(3):
            self.ticks += 1
            self.api.deadlines_pass()
            self.settle()
        self._check_rest()
        for node in range(len(self.nodes)):
            for source in self.sources:
                dozed = self.api.records[source].instance
                visit = self.visit(node, 0, source)
                self.settle()
                if visit.outcome != "answered":
                    raise ProtocolViolation(f"a visit to {source} ends as {visit.outcome}")
                if dozed is not None and visit.answered_by != dozed:
                    raise ProtocolViolation(f"a visit to {dozed} is answered by {visit.answered_by}")
        self._check_stops()
        held = {port for port, record in self.api.ports.items() if not self.machine.alive(record.instance)}
        if held:
            raise ProtocolViolation(f"ports {sorted(held)} are never given back")

    def _check_stops(self) -> None:
        """What dozes for long is stopped in the end, whatever the nodes have forgotten of it."""
        for source, record in self.api.records.items():
            record.kept = set()
            self.windows.discard(source)
            self.vetoes.discard(source)
            for mode in ("doze", "stop"):
                self.spawn(f"look {source}", look(self.api, source, mode))
                self.settle()
                for node in self.nodes:
                    if record.state == "dozing" and record.instance is not None:
                        node.nginx.forget(record.instance)
                self.settle()
            if record.state != "asleep":
                raise ProtocolViolation(f"{record} is never stopped")

    def _check_rest(self) -> None:
        for request in self.requests:
            if request.outcome is None:
                raise ProtocolViolation(f"{request} still waits")
        for source, record in self.api.records.items():
            if record.state not in {"asleep", "awake", "dozing"}:
                raise ProtocolViolation(f"{record} comes to no end")
            if source in self.windows and record.state != "awake" and not record.held_down:
                raise ProtocolViolation(f"{record} is in a window of its schedule")
            if record.state == "dozing" and record.kept:
                raise ProtocolViolation(f"{record} dozes, and is kept awake")
            if record.state == "dozing" and not self.machine.instances[record.instance or ""].frozen:
                raise ProtocolViolation(f"{record} is not frozen")

    def check_frozen(self) -> None:
        """What is frozen is published nowhere, and has a record that says so."""
        for process in self.machine.instances.values():
            if not process.alive or not process.frozen:
                continue
            record = self.api.records[process.source]
            if record.instance != process.id:
                raise ProtocolViolation(f"{process.id} is frozen, and nobody knows it")
            for node in self.nodes:
                if any(route.instance == process.id for route in node.nginx.table.values()):
                    raise ProtocolViolation(f"{node.name} publishes {process.id}, which is frozen")
