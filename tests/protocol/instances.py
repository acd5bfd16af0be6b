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
    """One process. `open` are the requests that it is answering; `arrivals` all that ever reached it.

    `freezing`: it was told to freeze, which takes its time. `frozen`: no step, no signal, no answer.
    """

    id: str
    source: str
    port: int
    alive: bool = True
    booted: bool = False
    deaf: bool = False
    freezing: bool = False
    frozen: bool = False
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
        if process.source in self.world.broken:
            process.alive = False
        process.booted = process.alive
        yield

    def void(self, instance: str) -> bool:
        """Claim a start that has not run yet; return whether it can never run any more."""
        return self.claims.setdefault(instance, "void") == "void"

    def alive(self, instance: str) -> bool:
        """Whether it runs."""
        return instance in self.instances and self.instances[instance].alive

    def freeze(self, instance: str) -> None:
        """Tell an instance to freeze. It may be some time until it is frozen, unless it is thawed before."""
        process = self.instances[instance]
        process.freezing = True
        self.world.send(f"freeze {instance}", lambda: self._freeze(process))

    def _freeze(self, process: Instance) -> None:
        if process.freezing and process.alive:
            process.frozen = True
            self.world.check_frozen()
            if process.open:
                raise ProtocolViolation(f"{process.id} is frozen under {sorted(r.id for r in process.open)}")

    def thaw(self, instance: str) -> None:
        """Let an instance go on, whether it is frozen or about to be."""
        process = self.instances.get(instance)
        if process is not None:
            process.freezing = process.frozen = False

    def signal(self, instance: str, kind: str) -> None:
        """End an instance at once. One that is frozen takes no signal.

        Args:
            instance: which.
            kind: of its drain: an idle stop may cut idle streams, an explicit one all streams, a late one whatever
                is open at its deadline.
        """
        process = self.instances.get(instance)
        if process is None or not process.alive or process.frozen:
            return
        cut = {"idle": lambda r: r.stream and r.quiet, "explicit": lambda r: r.stream, "late": lambda _: True}
        may_cut = cut.get(kind, lambda _: False)
        if lost := sorted(r.id for r in process.open if not may_cut(r)):
            raise ProtocolViolation(f"{instance} was stopped under {lost}")
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
        if process.freezing:
            raise ProtocolViolation(f"{request} is sent to {process.id}, which is frozen")
        request.sent += 1
        if request.sent > 1:
            raise ProtocolViolation(f"{request} was sent twice")
        process.open.add(request)
        process.arrivals += 1
        return process

    def answer(self, request: Request, process: Instance) -> Steps:
        """Wait for the answer; return whether there is one (else 502: the instance died under it)."""
        yield
        while process.alive and (process.deaf or process.frozen or (request.stream and not request.left)):
            yield WAIT
        process.open.discard(request)
        return process.alive
