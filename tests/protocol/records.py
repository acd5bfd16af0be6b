"""What the SourceLair API keeps: the stored records of servers and ports, and what it is asked for in memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.protocol.ceryx import Route

if TYPE_CHECKING:
    from tests.protocol.node import Request

Totals = dict[tuple[str, int], int]


@dataclass
class Record:
    """A server as it is stored. `revision` counts its changes; that of its route changes with its route.

    `stop`: an explicit stop was asked for, and is not done yet.

    `kept` says what keeps this instance awake: `busy`, `extended`. `ready`: it was awake once. `retry` is the tick from
    which a start may be tried again. `held_down`: a user stopped it inside a window of its schedule.
    """

    source: str
    state: str = "asleep"
    kind: str = ""
    instance: str | None = None
    port: int | None = None
    route_revision: int = 0
    stop: bool = False
    kept: set[str] = field(default_factory=set)
    ready: bool = False
    failures: int = 0
    retry: int = 0
    given_up: bool = False
    held_down: bool = False
    revision: int = 0

    def __setattr__(self, name: str, value: object) -> None:
        """A change that changes nothing writes nothing."""
        if name not in {"revision", "route_revision"} and self.__dict__.get(name) != value:
            self.__dict__["revision"] = self.__dict__.get("revision", 0) + 1
        self.__dict__[name] = value


@dataclass
class PortRecord:
    """A port that was given out; `withdrawn`: the revision of the withdrawal, once there is one."""

    instance: str
    withdrawn: int | None = None


@dataclass
class Call:
    """A waker call that is held open. `failed`: the entry whose connect was refused; `refused`: it ends in 503."""

    failed: Route | None
    waiters: set[Request] = field(default_factory=set)
    ended: bool = False
    refused: bool = False


@dataclass
class Sleep:
    """A doze or an idle stop, as Hemera asks for it: the record's revision, and the totals that it saw after it.

    `arrivals` is the ground truth at that moment; `checked`: the instance itself was asked, and agreed.
    """

    mode: str
    instance: str
    totals: Totals
    revision: int
    arrivals: int
    checked: bool = False
