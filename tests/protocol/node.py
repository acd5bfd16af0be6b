"""A proxy node: NGINX with its workers, their counts and the gate. The agent, its other half, is in `agent.py`."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from tests.protocol.actors import WAIT, Actor, Refused, Steps
from tests.protocol.ceryx import Counts, Route

if TYPE_CHECKING:
    from tests.protocol.records import Call
    from tests.protocol.world import World


class Nginx:
    """One generation: a table that the agent fills, and counts in shared memory."""

    def __init__(self, world: World, generation: int) -> None:
        self.world = world
        self.generation = generation
        self.alive = True
        self.session = 0
        self.loaded = False
        self.table: dict[str, Route] = {}
        self.in_flight: Counter[tuple[int, str]] = Counter()
        self.total: Counter[str] = Counter()
        self.streams: set[Request] = set()

    def hello(self, session: int) -> bool:
        """Open an agent's session; return whether the table was complete. Raises Refused."""
        if not self.alive:
            raise Refused("gone")
        if session < self.session:
            raise Refused("stale session")
        self.session = session
        return self.loaded

    def counts(self, instance: str) -> Counts:
        """Read the counts of all workers, and whether bytes have flown in streams since the last reading.

        A stream in which they have is as good as a visit, and is counted as one: else who looked before would not know.
        """
        streams = [s for s in self.streams if s.target is not None and s.target.instance == instance]
        idle = 0
        for stream in streams:
            flows = self.world.streams == "flow" and stream.flowed
            quiet = self.world.streams == "never" or (self.world.streams == "flow" and not stream.flowed)
            idle += quiet
            stream.flowed &= not flows
            self.total[instance] += flows and self.world.mutation != "bytes that flow are no visit"
            if (stream.node.name, instance) not in self.world.promises:  # what flows after it may be cut
                stream.quiet = quiet
                self.world.machine.instances[instance].arrivals += flows
        in_flight = sum(n for (_, i), n in self.in_flight.items() if i == instance)
        return Counts(in_flight, len(streams), idle, self.total[instance])

    def forget(self, instance: str) -> None:
        """Forget an instance that was withdrawn long ago: should it be published again, it is counted from zero."""
        open_ones = [key for key, n in self.in_flight.items() if n and key[1] == instance]
        if any(route.instance == instance for route in self.table.values()):
            return
        if not open_ones or self.world.mutation == "what is in flight is forgotten":
            self.total.pop(instance, None)
            for key in open_ones:
                self.in_flight[key] = 0

    def look_anew(self) -> None:
        """Another agent reads: it can't know whether bytes have flown since its predecessor looked, and says yes."""
        for stream in self.streams:
            if self.world.mutation != "a new agent has missed no bytes":
                stream.flowed = True
            elif stream.flowed and stream.target is not None and stream.target.instance is not None:
                stream.flowed = False
                if (stream.node.name, stream.target.instance) not in self.world.promises:
                    self.world.machine.instances[stream.target.instance].arrivals += self.world.streams == "flow"


class Request:
    """One visitor's request, on one worker. `failed` is the entry whose connect was refused, `target` where it goes.

    A `stream` stays open until its visitor leaves (`left`). `flowed`: bytes moved that no reading has seen; `quiet`: at
    the last reading before an acknowledged withdrawal it kept nothing awake. `answered_by`: the instance.
    """

    def __init__(self, world: World, node: Node, worker: int, source: str, number: int, *, stream: bool) -> None:
        self.world, self.node, self.nginx = world, node, node.nginx
        self.worker, self.source, self.id = worker, source, number
        self.stream, self.left, self.flowed, self.quiet = stream, False, True, False
        self.sent = 0
        self.answered_by: str | None = None
        self.outcome: str | None = None
        self.failed: Route | None = None
        self.target: Route | None = None
        self.waiting = False
        self.actor: Actor | None = None

    def __repr__(self) -> str:
        return f"request {self.id} for {self.source}"

    def live(self) -> Route | None:
        """Look the host up; an entry that a connect just failed for does not count (PROTOCOL 3.4)."""
        entry = self.nginx.table.get(self.source)
        if entry is None or entry.instance is None:
            return None
        bad = self.failed
        if bad is not None and bad.instance == entry.instance and entry.revision <= bad.revision:
            return None
        return entry

    def run(self) -> Steps:
        """PROTOCOL 3: look up, count, look again, connect; without a target, the gate."""
        while True:
            entry = self.live()
            yield
            if entry is None:
                yield from self._gate()
                continue
            assert entry.instance is not None
            self.target = entry
            key = (self.worker, entry.instance)
            self.nginx.in_flight[key] += 1
            self.nginx.total[entry.instance] += 1
            yield
            if self.world.mutation != "no second look" and self.live() != entry:
                self.nginx.in_flight[key] -= 1
                self.target = None
                yield
                continue
            yield
            process = self.world.machine.connect(self, entry)
            answered = False
            if process is not None:
                if self.stream:
                    self.nginx.streams.add(self)
                answered = yield from self.world.machine.answer(self, process)
            yield
            self.nginx.in_flight[key] -= 1
            self.nginx.streams.discard(self)
            self.target = None
            if process is not None:
                self.outcome, self.answered_by = "answered" if answered else "broken", process.id
                return
            self.failed = entry

    def _gate(self) -> Steps:
        self.waiting = True
        while self.live() is None:
            yield WAIT
        self.waiting = False


class Node:
    """What survives crashes of its parts: its name, its disk, and who serves there now."""

    def __init__(self, world: World, name: str) -> None:
        self.world, self.name = world, name
        self.generation = 1
        self.nginx = Nginx(world, 1)
        self.sessions = 0
        self.file: dict[str, Route] | None = None
        self.requests: set[Request] = set()
        self.calls: dict[str, Call] = {}
        self.refused: dict[str, object] = {}
        self.workers = [1, 2]
        self.dead_workers: set[int] = set()

    def covered(self, instance: str) -> set[Request]:
        """Requests that hold a count for an instance right now."""
        return {r for r in self.requests if r.target is not None and r.target.instance == instance}

    def visit(self, worker: int, source: str, number: int, *, stream: bool = False) -> Request:
        """A visitor comes, to one of the two workers."""
        request = Request(self.world, self, self.workers[worker], source, number, stream=stream)
        request.actor = self.world.spawn(str(request), request.run())
        self.requests.add(request)
        return request

    def _drop(self, requests: set[Request], outcome: str = "connection closed") -> None:
        for request in requests:
            if request.outcome is None:
                request.outcome = outcome
                assert request.actor is not None
                request.actor.kill()
                for process in self.world.machine.instances.values():
                    process.open.discard(request)
        self.requests -= requests
        self.nginx.streams -= requests

    def kill_nginx(self) -> None:
        """kill -9 of all of NGINX: its visitors lose their connections, and the next start is a new generation."""
        self.nginx.alive = False
        self._drop(set(self.requests))
        self.calls.clear()
        self.refused.clear()
        self.generation += 1
        self.nginx = Nginx(self.world, self.generation)

    def kill_worker(self, worker: int) -> None:
        """kill -9 of one worker: its counts stand until they are reaped, its successor has another identity."""
        identity = self.workers[worker]
        self._drop({r for r in self.requests if r.worker == identity})
        self.dead_workers.add(identity)
        self.workers[worker] = max(self.workers) + 1

    def reaper(self) -> Steps:
        """PROTOCOL 8: the counts of a dead worker are cleared by its own identity, some time later."""
        while True:
            while not self.dead_workers:
                yield WAIT
            identity = self.dead_workers.pop()
            for key in [key for key in self.nginx.in_flight if key[0] == identity]:
                del self.nginx.in_flight[key]
            yield

    def caller(self) -> Steps:
        """PROTOCOL 3.2: one waker call per host; when one ends and waiters remain, a new one begins (with back-off)."""
        while True:
            moved = False
            self.requests = {r for r in self.requests if r.outcome is None}
            for source in self.world.sources:
                waiting = [r for r in self.requests if r.source == source and r.waiting and r.live() is None]
                call = self.calls.get(source)
                failed = max((r.failed for r in waiting if r.failed), key=lambda f: f.revision, default=None)
                # The back-off: nothing to say that was not said, until the table or the API changes, or time passes.
                around = (self.nginx.table.get(source), self.world.api.incarnation, self.world.ticks)
                news = (around, failed)
                if call is not None and call.ended:
                    del self.calls[source]
                    if call.refused:  # 503, for those who waited for this very attempt
                        self._drop({r for r in call.waiters if r in waiting}, "failed")
                    self.refused[source] = (around, call.failed)
                    moved = True
                elif call is None and waiting and self.refused.get(source) != news:
                    self.calls[source] = self.world.api.send_wake(self.name, source, failed, set(waiting))
                    moved = True
            yield None if moved else WAIT
