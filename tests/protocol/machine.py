"""The state machine that Hypothesis drives: which actor moves, which is paused, what crashes, who visits.

Every rule's docstring names the rule of the protocol (docs/protocol.md, by section) that it exercises. The steps
themselves are in the actors: `node.py` (sections 3 and 8), `agent.py` (4), `servers.py` (5 to 7), `ceryx.py` (2, 4).
"""

from __future__ import annotations

import sys

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.protocol.actors import ProtocolViolation
from tests.protocol.sleeping import look
from tests.protocol.world import World

ANY = st.integers(0, 23)
"""Chooses an actor by number, modulo how many there are."""
SOURCES = st.sampled_from(["a", "b"])
WORKERS = st.integers(0, 1)
NODES = st.integers(0, 1)
FEW = st.integers(1, 4)


class ProtocolMachine(RuleBasedStateMachine):
    """Any order of steps, pauses and crashes; subclasses set `mutation` to prove that mistakes are found."""

    mutation: str | None = None

    def __init__(self) -> None:
        super().__init__()
        self.world = World(mutation=self.mutation)

    @initialize(nodes=st.sampled_from([1, 1, 2]), awake=st.lists(SOURCES, unique=True))
    def begin(self, nodes: int, awake: list[str]) -> None:
        """One or two nodes have joined, and some servers are awake."""
        if nodes == 2:
            self.world.add_node()
        self.world.settle()
        for source in awake:
            self.world.visit(0, 0, source)
            self.world.settle()

    @rule(node=NODES, worker=WORKERS, source=SOURCES, steps=st.integers(0, 6))
    def visit(self, node: int, worker: int, source: str, steps: int) -> None:
        """Section 3: a request comes, and gets as far as some step: lookup, count, second look, connect, answer."""
        actor = self.world.visit(node, worker, source).actor
        assert actor is not None
        for _ in range(steps):
            actor.step()

    @rule(node=NODES, worker=WORKERS, source=SOURCES)
    def whole_visit(self, node: int, worker: int, source: str) -> None:
        """Section 3: a request comes, and everything that is not paused has time to answer it."""
        self.world.visit(node, worker, source)
        self.world.settle()

    @rule(node=NODES, worker=WORKERS, source=SOURCES, steps=st.integers(1, 6))
    def stalled_visit(self, node: int, worker: int, source: str, steps: int) -> None:
        """Sections 3 and 9: a request stalls between two steps while everything else goes on."""
        self.visit(node, worker, source, steps)
        actor = self.world.requests[-1].actor
        assert actor is not None
        actor.frozen = True
        self.world.settle()

    @rule(index=ANY, steps=FEW)
    def step(self, index: int, steps: int) -> None:
        """Any actor takes its next steps: a worker of NGINX, an agent, the API, a message that arrives out of order."""
        self.world.step(index, steps)

    @rule(index=ANY)
    def freeze(self, index: int) -> None:
        """Section 9: any actor, or any message, may pause between any two steps."""
        self.world.actors[index % len(self.world.actors)].frozen = True

    @rule(kind=st.sampled_from(["write", "start", "apply", "ack", "report", "register", "sleep", "store"]))
    def hold_next(self, kind: str) -> None:
        """Section 2: the next message of this kind is stuck on its way, and its sender may be dead when it arrives."""
        self.world.holding.add(kind)

    @rule(index=st.integers(0, 7), settle=st.booleans())
    def thaw(self, index: int, settle: bool) -> None:
        """Who was paused goes on, and knows nothing of the time that has passed."""
        frozen = [actor for actor in self.world.actors if actor.frozen]
        if frozen:
            frozen[index % len(frozen)].frozen = False
        if settle:
            self.world.settle()

    @rule()
    def settle(self) -> None:
        """All that is not paused comes to rest."""
        self.world.settle()

    @rule(source=SOURCES, settle=st.booleans())
    def idle(self, source: str, settle: bool) -> None:
        """Section 5: Hemera finds a server idle, and asks for an idle stop."""
        self.world.spawn(f"look {source}", look(self.world.api, source, "stop"))
        if settle:
            self.world.settle()

    @rule(source=SOURCES, settle=st.booleans())
    def explicit_stop(self, source: str, settle: bool) -> None:
        """Section 5: a user stops a server, whatever state it is in."""
        self.world.api.stop(source)
        if settle:
            self.world.settle()

    @rule(settle=st.booleans())
    def time_passes(self, settle: bool) -> None:
        """Sections 3 and 5: back-offs and the deadlines of drains run out."""
        self.world.ticks += 1
        self.world.api.deadlines_pass()
        if settle:
            self.world.settle()

    @rule(what=st.sampled_from(["api", "ceryx", "agent", "nginx", "worker"]), node=NODES, worker=WORKERS)
    def crash(self, what: str, node: int, worker: int) -> None:
        """Sections 4, 5 and 8: kill -9 between any two steps; messages that are on their way may still arrive.

        The API loses its waits, Ceryx its asks, acknowledgements and reports, NGINX its table and its visitors, a
        worker its visitors (its counts are reaped by its identity).
        """
        world = self.world
        match what:
            case "api" if world.api.up:
                world.api.crash()
            case "ceryx":
                world.ceryx.crash()
            case "agent":
                world.agents[node % len(world.agents)].kill()
            case "nginx":
                world.nodes[node % len(world.nodes)].kill_nginx()
            case "worker":
                world.nodes[node % len(world.nodes)].kill_worker(worker)

    @rule(settle=st.booleans())
    def restart(self, settle: bool) -> None:
        """Sections 2, 4, 5 and 7: who crashed comes back: adopts, resumes, registers, compares, writes every route."""
        self.world.restart_crashed()
        if settle:
            self.world.settle()

    @rule()
    def api_is_replaced(self) -> None:
        """Sections 2 and 7: killed and started again at once, while its messages are still on their way."""
        if self.world.api.up:
            self.world.api.crash()
        self.world.api.start()
        self.world.settle()

    @rule(node=NODES, nginx=st.booleans(), store=st.booleans())
    def agent_is_replaced(self, node: int, nginx: bool, store: bool) -> None:
        """Section 4: a new agent takes over, maybe with a new NGINX, maybe while the store is down."""
        agent = self.world.agents[node % len(self.world.agents)]
        agent.kill()
        if nginx:
            agent.node.kill_nginx()
        if store:
            self.world.ceryx.crash()
        agent.start()
        self.world.settle()

    @rule(node=NODES, worker=WORKERS, source=SOURCES)
    def change_is_late(self, node: int, worker: int, source: str) -> None:
        """Section 4: an agent is replaced while its last change is still on its way to NGINX."""
        self.world.holding.add("apply")
        self.whole_visit(node, worker, source)
        self.agent_is_replaced(node, nginx=False, store=False)

    @rule(source=SOURCES, kind=st.sampled_from(["start", "write"]))
    def message_is_late(self, source: str, kind: str) -> None:
        """Sections 2 and 7: the API is killed while a start or a publication is on its way, which arrives later."""
        self.world.api.stop(source)
        self.world.settle()
        self.world.holding.add(kind)
        self.whole_visit(0, 0, source)
        self.world.holding.discard(kind)
        self.api_is_replaced()
        self.explicit_stop(source, settle=True)
        self.release(kind)
        self.world.settle()

    @rule(node=NODES, source=SOURCES)
    def node_starts_from_its_disk(self, node: int, source: str) -> None:
        """Section 4: a node comes back while the store is down, and knows what it has acknowledged."""
        self.whole_visit(node, 0, source)
        self.idle(source, settle=True)
        self.agent_is_replaced(node, nginx=True, store=True)

    @rule(source=SOURCES, steps=st.integers(1, 4))
    def stalls_over_a_stop(self, source: str, steps: int) -> None:
        """Sections 3 and 5: a request stalls between two steps while its server is stopped, and goes on."""
        self.whole_visit(0, 0, source)
        self.stalled_visit(0, 0, source, steps)
        self.explicit_stop(source, settle=True)
        self.release("request")
        self.world.settle()

    @rule(source=SOURCES)
    def acknowledgement_is_late(self, source: str) -> None:
        """Section 4: one of a drain that a visitor cancelled comes late, and the next withdrawal is late too."""
        self.whole_visit(0, 0, source)
        self.world.holding.add("ack")
        self.idle(source, settle=True)
        self.world.holding.discard("ack")
        self.whole_visit(0, 0, source)
        self.release("ack")
        self.stalled_visit(0, 0, source, 5)
        self.world.holding.add("apply")
        self.explicit_stop(source, settle=True)
        self.world.holding.discard("apply")
        self.release("apply")
        self.world.settle()

    def release(self, kind: str) -> None:
        """Messages of one kind that were stuck go on."""
        for actor in self.world.actors:
            if actor.name.startswith(f"{kind} "):
                actor.frozen = False

    @rule(source=SOURCES)
    def instance_ends(self, source: str) -> None:
        """Section 5: an instance ends by itself."""
        instance = self.world.api.records[source].instance
        if instance is not None and self.world.machine.alive(instance):
            self.world.machine.crash(instance)

    @rule(source=SOURCES, deaf=st.booleans())
    def listener(self, source: str, deaf: bool) -> None:
        """Section 3.4: a development server that reloads drops its listener for a moment."""
        instance = self.world.api.records[source].instance
        if instance is not None and instance in self.world.machine.instances:
            self.world.machine.instances[instance].deaf = deaf

    @precondition(lambda self: len(self.world.nodes) < 2)
    @rule(slow=st.booleans())
    def node_joins(self, slow: bool) -> None:
        """Section 4: a node registers first, then takes its snapshot, then serves; its registration may take long."""
        if slow:
            self.world.holding.add("register")
        self.world.add_node()
        self.world.settle()

    @invariant()
    def one_instance_each(self) -> None:
        """A server never has two instances. (The other promises are checked in the steps that could break them.)"""
        alive = [process.source for process in self.world.machine.instances.values() if process.alive]
        if len(alive) != len(set(alive)):
            raise ProtocolViolation(f"two instances: {alive}")
        self.world.check_frozen()

    def teardown(self) -> None:
        """Once all actors run, finitely many steps end every request, and a visit to any server succeeds."""
        if sys.exception() is None:  # what comes after a broken promise would only hide it
            self.world.check_quiescence()
