"""The SourceLair API and Hemera in the model: durable records, one serialised worker per server, and the ports.

Every transition is one step (a compare-and-set); a managed write is a message that is conditional on the revision
that was known when the state was entered, so that one which is on its way during a crash lands as nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.protocol.actors import WAIT, Actor, ProtocolViolation, Refused, Steps
from tests.protocol.ceryx import Answer, Route
from tests.protocol.ports import release_ports
from tests.protocol.records import Call, PortRecord, Record, Sleep

if TYPE_CHECKING:
    from tests.protocol.world import World


class Api:
    """`records`, `ports` and `issued` are stored; calls, sleeps and deadlines live in memory."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.records = {source: Record(source) for source in world.sources}
        self.ports: dict[int, PortRecord] = {}
        self.issued = 0
        self.up = False
        self.incarnation = 0
        self.calls: dict[str, list[Call]] = {}
        self.sleeps: dict[str, Sleep] = {}
        self.expired: set[str] = set()
        self.actors: list[Actor] = []

    def start(self) -> None:
        """Start the process: a worker per server, and one for the ports."""
        self.up = True
        self.incarnation += 1
        for source in self.world.sources:
            self.actors.append(self.world.spawn(f"worker {source}", self._work(self.records[source])))
        self.actors.append(self.world.spawn("ports", release_ports(self)))

    def crash(self) -> None:
        """kill -9: held waker calls end, messages that are on their way may still arrive."""
        self.up = False
        for actor in self.actors:
            actor.kill()
        for calls in self.calls.values():
            for call in calls:
                call.ended = True
        self.actors, self.calls, self.sleeps, self.expired = [], {}, {}, set()

    def send_wake(self, node: str, source: str, failed: Route | None) -> Call:
        """A node's waker call (through Hemera, who keeps nothing)."""
        call = Call(failed)
        self.world.send(
            f"wake {source} from {node}", lambda: self.calls.setdefault(source, []).append(call), lambda: self.up
        )
        return call

    def look(self, source: str) -> Steps:
        """Hemera finds a server idle, and asks for an idle stop with what it saw (PROTOCOL 5)."""
        instance = self.records[source].instance
        if self.records[source].state != "awake" or instance is None or not self.world.machine.alive(instance):
            return
        yield
        in_flight, totals = self.world.ceryx.activity(instance)
        arrivals = self.world.machine.instances[instance].arrivals
        if in_flight:
            return
        yield
        sleep = Sleep(instance, totals, arrivals)
        self.world.send(f"sleep {source}", lambda: self.sleeps.__setitem__(source, sleep), lambda: self.up)

    def stop(self, source: str) -> None:
        """A user stops a server: stored, and carried out whoever visits."""
        if self.records[source].state != "asleep":
            self.records[source].stop = True

    def deadlines_pass(self) -> None:
        """The time of every drain that is under way is over."""
        self.expired = {source for source, record in self.records.items() if record.state == "draining"}

    # The worker of one server.

    def _work(self, record: Record) -> Steps:
        yield from self._recover(record)
        while True:
            match record.state:
                case "asleep":
                    yield from self._asleep(record)
                case "starting":
                    yield from self._starting(record)
                case "awake":
                    yield from self._awake(record)
                case "draining":
                    yield from self._draining(record)
                case "stopping":
                    yield from self._stopping(record)

    def _recover(self, record: Record) -> Steps:
        """After a start: decide by the record and the world, then write the route once, even where it looks right."""
        machine = self.world.machine
        if record.state == "starting":
            assert record.instance is not None
            if machine.void(record.instance) or not machine.alive(record.instance):
                record.state, record.kind = "draining", "exit"
        elif record.state == "awake":
            assert record.instance is not None
            if not machine.alive(record.instance):
                record.state, record.kind = "draining", "exit"
        yield
        publish = record.state == "awake" or (record.state == "draining" and record.kind == "idle")
        while True:
            now = self.world.ceryx.routes.get(record.source)
            record.route_revision = now.revision if now else 0
            yield
            try:
                yield from self._write(record, publish=publish)
                break
            except Refused:
                yield
        if record.state == "draining" and record.kind == "idle":
            record.state, record.kind = "awake", ""
        yield

    def _write(self, record: Record, *, publish: bool) -> Steps:
        """Write the route for the state that was entered, conditional on the revision that was known then."""
        instance, port = (record.instance, record.port) if publish else (None, None)
        expect = None if self.world.mutation == "write whatever the revision" else record.route_revision

        def land() -> Route:
            route = self.world.ceryx.write(record.source, instance, port, expect)
            if instance is not None and (record.instance != instance or record.state == "stopping"):
                raise ProtocolViolation(f"{instance} is published while {record}")
            return route

        def reachable() -> bool:
            return self.world.ceryx.up

        route = yield from self.world.call(f"write {record.source}", land, reachable)
        record.route_revision = route.revision
        if record.port is not None and record.port in self.ports:
            self.ports[record.port].withdrawn = None if publish else route.revision

    def _asleep(self, record: Record) -> Steps:
        record.stop = False
        free = [port for port in self.world.ports if port not in self.ports]
        if not self.calls.get(record.source) or not free:
            yield WAIT
            return
        self.issued += 1
        port = free[0]  # not round robin: here ports shall be used again as soon as it is allowed
        record.instance, record.port, record.state = f"{record.source}{self.issued}", port, "starting"
        self.ports[port] = PortRecord(record.instance)
        instance = record.instance
        yield
        self.world.send(f"start {instance}", lambda: self.world.machine.launch(instance, record.source, port))
        yield

    def _starting(self, record: Record) -> Steps:
        process = self.world.machine.instances.get(record.instance or "")
        if record.stop:
            record.state, record.kind = "draining", "explicit"
            yield
        elif process is None or (process.alive and not process.listening):
            yield WAIT
        elif not process.alive:
            record.state, record.kind = "draining", "exit"
            yield
        else:
            yield from self._write(record, publish=True)
            record.state = "awake"
            self._end_calls(record)
            yield

    def _end_calls(self, record: Record) -> None:
        for call in self.calls.pop(record.source, []):
            call.ended = True

    def _awake(self, record: Record) -> Steps:
        assert record.instance is not None
        sleep = self.sleeps.pop(record.source, None)
        calls = self.calls.get(record.source, [])
        failed = [call.failed for call in calls if call.failed is not None and call.failed.instance == record.instance]
        if not self.world.machine.alive(record.instance):
            record.state, record.kind = "draining", "exit"
        elif record.stop:
            record.state, record.kind = "draining", "explicit"
        elif any(entry.revision >= record.route_revision for entry in failed):
            # It lives and does not listen: the same instance again, once it does; never a second one.
            record.state = "starting"
            yield
            yield from self._write(record, publish=False)
        elif calls:
            self._end_calls(record)
        elif sleep is not None and sleep.instance == record.instance:
            record.state, record.kind = "draining", "idle"
            yield from self._idle_drain(record, sleep)
        else:
            yield WAIT
            return
        yield

    def _idle_drain(self, record: Record, sleep: Sleep) -> Steps:
        """Withdraw, and stop only if every node says that nothing is in flight and nothing came since."""
        machine, source = self.world.machine, record.source
        self.expired.discard(source)
        assert record.instance is not None
        yield
        yield from self._write(record, publish=False)
        while True:
            if not machine.alive(record.instance):
                record.kind = "exit"
                return
            if record.stop:
                record.kind = "explicit"
                return
            answer = self.ask(record.instance, record.route_revision)
            if self.calls.get(source) or source in self.expired:
                break
            if answer is None or not answer.acknowledged:
                yield WAIT
                continue
            # Equal as a whole: a generation that the sleeper did not see may hide visits of one that is gone.
            unchanged = answer.totals == sleep.totals or self.world.mutation == "stop whatever the totals"
            if answer.in_flight or not unchanged:
                break
            yield
            if machine.alive(record.instance):
                if machine.instances[record.instance].arrivals != sleep.arrivals:
                    raise ProtocolViolation(f"idle stop of {record.instance}, visited since it was found idle")
                record.state = "stopping"
            return
        yield
        yield from self._write(record, publish=True)
        record.state, record.kind = "awake", ""

    def ask(self, instance: str, revision: int) -> Answer | None:
        """Ask the nodes; None while Ceryx is down."""
        return self.world.ceryx.ask(instance, revision) if self.world.ceryx.up else None

    def _draining(self, record: Record) -> Steps:
        """An explicit stop, or what is left of an instance that ended by itself: visitors never cancel it."""
        assert record.instance is not None
        self.expired.discard(record.source)
        withdrawn = self.ports[record.port].withdrawn if record.port is not None else None
        if withdrawn is None:
            yield from self._write(record, publish=False)
            yield
        may_break = False
        while record.kind == "explicit" and self.world.machine.alive(record.instance):
            if record.source in self.expired:
                may_break = True
                break
            answer = self.ask(record.instance, record.route_revision)
            if answer is not None and answer.acknowledged and not answer.in_flight:
                break
            yield WAIT
        yield
        record.state = "stopping"
        record.kind = "late" if may_break else record.kind
        yield

    def _stopping(self, record: Record) -> Steps:
        """Irrevocable. A start that is still on its way is voided first; signals go by identity."""
        assert record.instance is not None
        self.world.machine.void(record.instance)
        yield
        self.world.machine.signal(record.instance, may_break=record.kind == "late")
        yield
        record.state, record.kind, record.instance, record.port, record.stop = "asleep", "", None, None, False
        yield
