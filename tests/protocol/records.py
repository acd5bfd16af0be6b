"""What the SourceLair API keeps: the stored records of servers and ports, and what it is asked for in memory."""

from __future__ import annotations

from dataclasses import dataclass

from tests.protocol.ceryx import Route

Totals = dict[tuple[str, int], int]


@dataclass
class Record:
    """A server as it is stored. `stop`: an explicit stop was asked for, and is not done yet."""

    source: str
    state: str = "asleep"
    kind: str = ""
    instance: str | None = None
    port: int | None = None
    route_revision: int = 0
    stop: bool = False


@dataclass
class PortRecord:
    """A port that was given out; `withdrawn`: the revision of the withdrawal, once there is one."""

    instance: str
    withdrawn: int | None = None


@dataclass
class Call:
    """A waker call that is held open. `failed`: the entry whose connect was refused."""

    failed: Route | None
    ended: bool = False


@dataclass
class Sleep:
    """An idle stop, as Hemera asks for it: the totals that it saw, and (ground truth) the arrivals at that moment."""

    instance: str
    totals: Totals
    arrivals: int
