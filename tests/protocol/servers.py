"""The SourceLair API and Hemera in the model: durable records, one serialised worker per server, and the ports.

Every transition is one step (a compare-and-set); a managed write is a message that is conditional on the revision
that was known when the state was entered, so that one which is on its way during a crash lands as nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.protocol.actors import WAIT, Actor, ProtocolViolation, Refused, Steps
from tests.protocol.ceryx import Answer, Route
from tests.protocol.drains import begin_sleep, dozing, draining
from tests.protocol.ports import release_ports
from tests.protocol.records import Call, PortRecord, Record, Sleep, Totals
from tests.protocol.sleeping import in_window

if TYPE_CHECKING:
    from tests.protocol.node import Request
    from tests.protocol.world import World


TRIES = 2
"""Starts that fail in a row before visits start it no more."""


class Api:
    """`records`, `ports` and `issued` are stored; the rest lives in memory.

    `sleeps` are those that were accepted and are not answered, `arrived` says for which servers somebody came since.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.records = {source: Record(source) for source in world.sources}
        self.ports: dict[int, PortRecord] = {}
        self.issued = 0
        self.up = False
        self.incarnation = 0
        self.calls: dict[str, list[Call]] = {}
        self.recovered: set[str] = set()
        self.arrived: set[str] = set()
        self.sleeps: dict[str, Sleep] = {}
        self.drained: dict[str, Totals] = {}
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
        self.actors, self.calls, self.sleeps, self.drained = [], {}, {}, {}
        self.recovered, self.arrived, self.expired = set(), set(), set()

    def send_wake(self, node: str, source: str, failed: Route | None, waiters: set[Request]) -> Call:
        """A node's waker call (through Hemera, who keeps nothing)."""
        call = Call(failed, waiters)

        def arrive() -> None:
            self.calls.setdefault(source, []).append(call)
            self.arrived.add(source)

        self.world.send(f"wake {source} from {node}", arrive, lambda: self.up)
        return call

    def stop(self, source: str, *, by_user: bool = True) -> None:
        """An explicit stop is stored, and carried out whoever visits; one of a user holds inside a window too."""
        record = self.records[source]
        record.held_down |= by_user and source in self.world.windows
        record.stop = record.state != "asleep"

    def start_by_user(self, source: str) -> None:
        """A person wants it tried again, whatever failed before."""
        record = self.records[source]
        record.given_up, record.failures, record.retry, record.held_down = False, 0, 0, False

    def deadlines_pass(self) -> None:
        """The time of every drain that is under way is over."""
        self.expired = {source for source, record in self.records.items() if record.state == "draining"}

    # The worker of one server.

    def _work(self, record: Record) -> Steps:
        yield from self._recover(record)
        self.recovered.add(record.source)
        while True:
            match record.state:
                case "asleep":
                    yield from self._asleep(record)
                case "starting":
                    yield from self._starting(record)
                case "awake":
                    yield from self._awake(record)
                case "draining":
                    yield from draining(self, record)
                case "dozing":
                    yield from dozing(self, record)
                case "stopping":
                    yield from self._stopping(record)

    def _recover(self, record: Record) -> Steps:
        """After a start: decide by the record and the world, then write the route once, even where it looks right."""
        machine, mutation = self.world.machine, self.world.mutation
        instance = record.instance or ""
        if record.state == "starting" and machine.void(instance):
            record.state, record.kind = "draining", "explicit"  # it never ran: no failure of its own
        elif record.state in {"starting", "awake", "dozing"} and not machine.alive(instance):
            record.state, record.kind = "draining", "exit"  # withdrawn first: its publication may be on its way still
        yield
        cancelled = record.state == "draining" and record.kind in {"idle", "doze"}
        found_frozen = machine.alive(instance) and machine.instances[instance].frozen
        if record.state == "dozing" and (not found_frozen or mutation == "recovery publishes what is frozen"):
            cancelled = True
        thaws = cancelled and record.kind == "doze"  # whatever it looks like: a freeze may be under way still
        if mutation == "recovery thaws only what it finds frozen":
            thaws = cancelled and found_frozen
        elif mutation in {"recovery publishes what is frozen", "freeze, then record it"}:
            thaws = False
        if thaws:
            machine.thaw(instance)
            yield
        publish = record.state == "awake" or cancelled
        while True:
            now = self.world.ceryx.routes.get(record.source)
            record.route_revision = now.revision if now else 0
            yield
            try:
                yield from self.write(record, publish=publish)
                break
            except Refused:
                yield
        if cancelled:
            record.state, record.kind = "awake", ""
        yield

    def write(self, record: Record, *, publish: bool) -> Steps:
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
        """It starts for a visitor or for its schedule; what failed waits, and is given up for visitors in the end."""
        record.stop = False
        calls, ticks = self.calls.get(record.source), self.world.ticks
        given_up = record.given_up and self.world.mutation != "a visit starts what was given up"
        if calls and not in_window(self, record) and (record.retry > ticks or given_up):
            self.end_calls(record, refused=True)
            yield
            return
        free = [port for port in self.world.ports if port not in self.ports]
        wanted = in_window(self, record) or calls
        if not wanted or record.retry > ticks or not free:
            yield WAIT
            return
        if record.given_up and not in_window(self, record):
            raise ProtocolViolation(f"{record} is started by a visit")
        record.held_down, record.ready = False, False
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
            yield from self.write(record, publish=True)
            record.state, record.ready, record.failures = "awake", True, 0
            self.end_calls(record)
            yield

    def end_calls(self, record: Record, *, refused: bool = False) -> None:
        """Answer whoever waits for this server: it is awake, or (503) does not start."""
        for call in self.calls.pop(record.source, []):
            call.ended, call.refused = True, refused

    def _awake(self, record: Record) -> Steps:
        assert record.instance is not None
        sleep, calls = self.sleeps.get(record.source), self.calls.get(record.source, [])
        failed = [call.failed for call in calls if call.failed is not None and call.failed.instance == record.instance]
        if not self.world.machine.alive(record.instance):
            record.state, record.kind = "draining", "exit"
            self.sleeps.pop(record.source, None)
        elif record.stop:
            record.state, record.kind = "draining", "explicit"
            self.sleeps.pop(record.source, None)
        elif any(entry.revision >= record.route_revision for entry in failed):
            # It lives and does not listen: the same instance again, once it does; never a second one.
            record.state = "starting"
            self.sleeps.pop(record.source, None)
            yield
            yield from self.write(record, publish=False)
        elif calls:
            self.end_calls(record)
        elif sleep is not None:
            yield from begin_sleep(self, record, sleep)
        else:
            yield WAIT
            return
        yield

    def ask(self, instance: str, revision: int) -> Answer | None:
        """Ask the nodes; None while Ceryx is down."""
        return self.world.ceryx.ask(instance, revision) if self.world.ceryx.up else None

    def _stopping(self, record: Record) -> Steps:
        """Irrevocable. A start that is still on its way is voided, what is frozen thawed; signals go by identity."""
        assert record.instance is not None
        machine = self.world.machine
        machine.void(record.instance)
        yield
        if self.world.mutation != "a frozen one is signalled as it is":
            machine.thaw(record.instance)
            yield
        machine.signal(record.instance, record.kind)
        yield
        if record.kind == "exit" and not record.ready and not record.stop:
            record.failures += 1
            record.retry, record.given_up = self.world.ticks + 1, record.failures >= TRIES
            self.end_calls(record, refused=True)
        record.state, record.kind, record.instance, record.port, record.stop = "asleep", "", None, None, False
        record.kept = set()
        yield
