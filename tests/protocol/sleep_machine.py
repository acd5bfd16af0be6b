"""Everything of sleep on top of `machine.py`: dozes, streams, what keeps a server awake, back-off, old decisions.

A clock that jumps needs no rule of its own: deadlines, windows and what is kept begin and end between any two steps.
"""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule
from tests.protocol.machine import NODES, SOURCES, WORKERS, ProtocolMachine
from tests.protocol.sleeping import keep, look

MODES = st.sampled_from(["doze", "stop"])
COMES = st.sampled_from(["busy", "extended", "window", "visit", "stop", "end"])


class SleepMachine(ProtocolMachine):
    """Any order of these rules too."""

    @initialize(streams=st.sampled_from(["always", "never", "flow", "flow"]), checks=st.booleans())
    def policy(self, streams: str, checks: bool) -> None:
        """Section 5: what is said of streams, and whether instances are asked before they are stopped."""
        self.world.streams, self.world.checks = streams, checks

    @rule(source=SOURCES, mode=MODES, settle=st.booleans())
    def sleeper(self, source: str, mode: str, settle: bool) -> None:
        """Section 5: Hemera finds a server idle, awake or dozing, and asks for a doze or an idle stop."""
        self.world.spawn(f"look {source}", look(self.world.api, source, mode))
        if settle:
            self.world.settle()

    @rule(node=NODES, source=SOURCES)
    def dozes(self, node: int, source: str) -> None:
        """Section 5: a visit, and long after it a doze; it ends in memory unless something is in the way."""
        self.whole_visit(node, 0, source)
        self.sleeper(source, "doze", settle=True)

    @rule(source=SOURCES, mode=MODES, decided=st.booleans(), forgotten=st.booleans(), again=st.booleans())
    def old_decision(self, source: str, mode: str, decided: bool, forgotten: bool, again: bool) -> None:
        """Section 5: a sleeper is paused as it looks, or with its decision made; it goes on when all looks the same."""
        self.explicit_stop(source, settle=True)
        self.whole_visit(0, 0, source)
        if again:
            self.sleeper(source, "doze", settle=True)
        self._pause_sleeper(source, mode, decided)
        self.sleeper(source, "doze", settle=True)
        if forgotten:
            self.counts_are_forgotten(source)
        self.whole_visit(0, 0, source)
        if again:
            self.sleeper(source, "doze", settle=True)
        self.release("sleep" if decided else "look")
        self.world.settle()

    def _pause_sleeper(self, source: str, mode: str, decided: bool) -> None:
        if decided:
            self.world.holding.add("sleep")
            self.sleeper(source, mode, settle=True)
            self.world.holding.discard("sleep")
        else:
            actor = self.world.spawn(f"look {source}", look(self.world.api, source, mode))
            actor.step()
            actor.step()  # it has read the counts
            actor.frozen = True

    @rule(source=SOURCES, mode=MODES, then=st.sampled_from(["quiet", "flows", "missed"]))
    def sleeps_under_a_stream(self, source: str, mode: str, then: str) -> None:
        """Section 3: a stream is open when a sleeper looks, and bytes may flow in it until its decision arrives.

        `missed`: the node's agent is replaced before it has seen them.
        """
        self.stream(0, 0, source)
        self._pause_sleeper(source, mode, decided=True)
        if then != "quiet":
            self.bytes_flow(source, leaves=False, settle=then == "flows")
        if then == "missed":
            self.agent_is_replaced(0, nginx=False, store=False)
        self.release("sleep")
        self.world.settle()

    @rule(source=SOURCES, steps=st.integers(2, 4))
    def forgets_under_a_request(self, source: str, steps: int) -> None:
        """Section 4: a request that was counted stalls while its instance is withdrawn, and a node wants to forget."""
        instance = self.world.api.records[source].instance
        self.stalled_visit(0, 0, source, steps)
        self.explicit_stop(source, settle=True)
        for node in self.world.nodes:
            node.nginx.forget(instance or "")
        self.time_passes(settle=True)

    @rule(source=SOURCES, mode=MODES, then=COMES)
    def meets_a_drain(self, source: str, mode: str, then: str) -> None:
        """Section 5: something comes while a drain waits for its withdrawal, which is late."""
        self.world.holding.add("apply")
        self.sleeper(source, mode, settle=True)
        self.world.holding.discard("apply")
        self._comes(source, then)
        self.release("apply")

    @rule(source=SOURCES, mode=MODES, then=st.sampled_from(["busy", "window"]))
    def meets_a_drain_and_is_over(self, source: str, mode: str, then: str) -> None:
        """Section 5: what kept it awake while a drain waits is over at once, while visitors still come."""
        self.whole_visit(0, 0, source)
        self.world.holding.add("apply")
        self.sleeper(source, mode, settle=True)
        self.world.holding.discard("apply")
        self._comes(source, then)
        self._rounds(1)
        self.kept_no_longer(source)
        self.window(source, opens=False)
        self.whole_visit(0, 0, source)
        self.release("apply")

    @rule(source=SOURCES, mode=st.sampled_from(["stop what dozes", "doze", "stop"]), then=COMES)
    def meets_a_slow_disk(self, source: str, mode: str, then: str) -> None:
        """Section 5: something comes while the end of a drain, or the stop of what dozes, waits for the disk."""
        self.whole_visit(0, 0, source)
        if mode == "stop what dozes":
            self.sleeper(source, "doze", settle=True)
            mode = "stop"
        self.world.holding.add("store")
        self.sleeper(source, mode, settle=True)
        self.world.holding.discard("store")
        self._comes(source, then)
        self.world.settle()
        self.release("store")
        self.world.settle()

    def _comes(self, source: str, then: str) -> None:
        match then:
            case "busy" | "extended":
                self.kept(source, then, settle=False)
                self._rounds(1)
            case "window":
                self.window(source, opens=True)
            case "visit":
                self.visit(0, 0, source, 6)
            case "stop":
                self.world.api.stop(source)
            case "end":
                self.instance_ends(source)

    def _rounds(self, rounds: int) -> None:
        for _ in range(rounds):
            for actor in [actor for actor in self.world.actors if not actor.frozen]:
                actor.step()

    @rule(source=SOURCES, mode=MODES, rounds=st.integers(1, 30))
    def crash_in_a_drain(self, source: str, mode: str, rounds: int) -> None:
        """Sections 5 and 7: the API is killed some way into a drain, a doze or a thaw, and comes back."""
        self.sleeper(source, mode, settle=False)
        self._rounds(rounds)
        self.api_is_replaced()

    @rule(source=SOURCES)
    def freeze_is_late(self, source: str) -> None:
        """Section 5: the API is killed while a freeze is under way, which ends after the recovery."""
        self.world.holding.add("freeze")
        self.sleeper(source, "doze", settle=True)
        self.world.holding.discard("freeze")
        self.api_is_replaced()
        self.release("freeze")
        self.world.settle()

    @rule(source=SOURCES)
    def counts_are_forgotten(self, source: str) -> None:
        """Section 4: long after a withdrawal the nodes forget an instance's counts; nobody waits for it any more."""
        record = self.world.api.records[source]
        if record.state in {"dozing", "starting"} and record.instance is not None:
            for node in self.world.nodes:
                node.nginx.forget(record.instance)

    @rule(node=NODES, worker=WORKERS, source=SOURCES)
    def stream(self, node: int, worker: int, source: str) -> None:
        """Section 3: a WebSocket or an event stream begins, which is a visit, and stays open."""
        self.world.visit(node, worker, source, stream=True)
        self.world.settle()

    @rule(source=SOURCES, leaves=st.booleans(), settle=st.booleans())
    def bytes_flow(self, source: str, leaves: bool, settle: bool) -> None:
        """Section 3: bytes move in an open stream, or its visitor leaves."""
        for request in self.world.requests:
            if request.stream and request.source == source and request.outcome is None:
                request.flowed, request.left = True, request.left or leaves
        if settle:
            self.world.settle()

    @rule(source=SOURCES, what=st.sampled_from(["busy", "extended"]), settle=st.booleans())
    def kept(self, source: str, what: str, settle: bool) -> None:
        """Section 5: an instance says that it is busy, or a user extends its time; the message may arrive any time."""
        api = self.world.api
        instance = api.records[source].instance
        self.world.send(f"keep {source}", lambda: keep(api, source, what, instance), lambda: api.up)
        if settle:
            self.world.settle()

    @rule(source=SOURCES)
    def kept_no_longer(self, source: str) -> None:
        """Section 5: that time is over, or the clock jumped."""
        self.world.api.records[source].kept = set()

    @rule(source=SOURCES, opens=st.booleans())
    def window(self, source: str, opens: bool) -> None:
        """Section 5: a window of its schedule begins or ends, or the clock jumped."""
        if opens:
            self.world.windows.add(source)
        else:
            self.world.windows.discard(source)
            self.world.api.records[source].held_down = False

    @rule(source=SOURCES, vetoes=st.booleans())
    def veto(self, source: str, vetoes: bool) -> None:
        """Section 5: the instance changes its mind about being put to sleep."""
        (self.world.vetoes.add if vetoes else self.world.vetoes.discard)(source)

    @rule(source=SOURCES, deaf=st.booleans())
    def is_asked(self, source: str, deaf: bool) -> None:
        """Section 5: an instance is asked whether it may sleep, and may be one that just reloads."""
        self.listener(source, deaf=False)
        self.whole_visit(0, 0, source)
        self.listener(source, deaf)
        self.sleeper(source, "stop", settle=True)

    @rule(source=SOURCES)
    def policy_stop(self, source: str) -> None:
        """Section 5: its longest lifetime is over, or memory is short: explicit, and no user's stop."""
        self.world.api.stop(source, by_user=False)

    @rule(source=SOURCES, broken=st.booleans())
    def starts_fail(self, source: str, broken: bool) -> None:
        """Section 5: from now on its starts fail, or do not any more."""
        (self.world.broken.add if broken else self.world.broken.discard)(source)

    @rule(source=SOURCES, times=st.integers(1, 3))
    def fails_in_a_row(self, source: str, times: int) -> None:
        """Section 5: visits come, each after the back-off of the last, and every start fails."""
        self.world.api.stop(source, by_user=False)
        self.world.broken.add(source)
        for _ in range(times):
            self.world.settle()
            self.world.ticks += 1
            self.whole_visit(0, 0, source)

    @rule(source=SOURCES)
    def person_starts(self, source: str) -> None:
        """Section 5: a person tries again what was given up, or is held back."""
        self.world.api.start_by_user(source)
