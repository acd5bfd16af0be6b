"""The processes themselves, as they really are: the ground truth against which the promises are checked."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.protocol.actors import WAIT, ProtocolViolation, Steps
from tests.protocol.ceryx import Route

if TYPE_CHECKING:
    from tests.protocol.node import Request
    from tests.protocol.world import World


@dataclass
class Instance:
    """One process. `open` are the requests that it is answering; `arrivals` all that ever reached it."""

    id: str
    source: str
    port: int
    alive: bool = True
    booted: bool = False
    deaf: bool = False
    open: set[Request] = field(default_factory=set)
    arrivals: int = 0

    @property
    def listening(self) -> bool:
        """Whether a connect succeeds (a development server that reloads drops its listener for a moment)."""
        return self.alive and self.booted and not self.deaf


class Machine:
    """What runs on the servers' machine: instances and the claims of their launchers."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.instances: dict[str, Instance] = {}
        self.claims: dict[str, str] = {}

    def launch(self, instance: str, source: str, port: int) -> None:
        """Run a start order: claim the instance's file, then become the command (PROTOCOL 7)."""
        if instance in self.claims and self.world.mutation != "ignore claims":
            return
        self.claims[instance] = "started"
        for other in self.instances.values():
            if other.alive and other.source == source:
                raise ProtocolViolation(f"{source} has two instances: {other.id} and {instance}")
        self.world.check_port(port, instance)
        process = Instance(instance, source, port)
        self.instances[instance] = process
        self.world.spawn(f"boot {instance}", self._boot(process))

    def _boot(self, process: Instance) -> Steps:
        yield
        process.booted = True
        yield

    def void(self, instance: str) -> bool:
        """Claim a start that has not run yet; return whether it can never run any more."""
        return self.claims.setdefault(instance, "void") == "void"

    def alive(self, instance: str) -> bool:
        """Whether it runs."""
        return instance in self.instances and self.instances[instance].alive

    def signal(self, instance: str, *, may_break: bool) -> None:
        """End an instance at once.

        Args:
            instance: which.
            may_break: the deadline of an explicit stop is over; else a request that is still open is lost.
        """
        process = self.instances.get(instance)
        if process is None or not process.alive:
            return
        if process.open and not may_break:
            raise ProtocolViolation(f"{instance} was stopped under {sorted(r.id for r in process.open)}")
        process.alive = False

    def crash(self, instance: str) -> None:
        """The process ends by itself."""
        self.instances[instance].alive = False

    def connect(self, request: Request, entry: Route) -> Instance | None:
        """Open a request to where an entry points. None: the connect was refused."""
        assert entry.instance is not None
        self.world.check_promises(request, entry.instance)
        here = [p for p in self.instances.values() if p.port == entry.port and p.listening]
        if not here:
            return None
        (process,) = here
        if process.id != entry.instance:
            raise ProtocolViolation(f"{request} for {entry.instance} of {entry.source} reached {process.id}")
        request.sent += 1
        if request.sent > 1:
            raise ProtocolViolation(f"{request} was sent twice")
        process.open.add(request)
        process.arrivals += 1
        return process

    def answer(self, request: Request, process: Instance) -> Steps:
        """Wait for the answer; return whether there is one (else 502: the instance died under it)."""
        yield
        while process.alive and process.deaf:
            yield WAIT
        process.open.discard(request)
        return process.alive
