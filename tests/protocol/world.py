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


class World(Scheduler):
    """Servers `a` and `b` of two owners, a few ports, one node and room for a second."""

    def __init__(self, *, mutation: str | None = None, ports: int = 2) -> None:
        super().__init__()
        self.mutation = mutation
        self.sources = ("a", "b")
        self.ports = range(1, ports + 1)
        self.ticks = 0
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

    def visit(self, node: int, worker: int, source: str) -> Request:
        """A visitor sends a request through a node."""
        request = self.nodes[node % len(self.nodes)].visit(worker, source, len(self.requests) + 1)
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

    def check_quiescence(self) -> None:
        """After finitely many steps all requests have ended, and a visit to any server through any node succeeds."""
        self.heal()
        self.settle()
        for _ in range(3):
            self.ticks += 1
            self.api.deadlines_pass()
            self.settle()
        for request in self.requests:
            if request.outcome is None:
                raise ProtocolViolation(f"{request} still waits")
        for node in range(len(self.nodes)):
            for source in self.sources:
                visit = self.visit(node, 0, source)
                self.settle()
                if visit.outcome != "answered":
                    raise ProtocolViolation(f"a visit to {source} ends as {visit.outcome}")
        held = {port for port, record in self.api.ports.items() if not self.machine.alive(record.instance)}
        if held:
            raise ProtocolViolation(f"ports {sorted(held)} are never given back")
