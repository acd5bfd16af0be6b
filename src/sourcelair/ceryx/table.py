"""One proxy node's routing table as the agent sees it: the entries, and the interface of the engine that holds them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from operator import attrgetter
from typing import Literal, Protocol

from sourcelair.client.ceryx import InstanceCounts

Place = tuple[str, int]
"""An IP address and a port."""


@dataclass(frozen=True, slots=True)
class TableEntry:
    """What a node holds for one host.

    `state` is `live` (address and port are set), `null` (no target: visitors wait for the waker), `redirect`
    (`location` is set), `unresolved` (`problem` says why the target's name has no address; None while it is looked
    up, and visitors wait), or `deleted` (a tombstone, kept for its revision). `address` is an IP address, never a
    name. `tls`: the target speaks HTTPS, and `server_name` is what it is asked for. `settings` are the route's own, in
    the engine's words (`agent/compiled.py`).
    """

    source: str
    revision: int
    state: Literal["live", "null", "redirect", "unresolved", "deleted"]
    address: str | None = None
    port: int | None = None
    instance: str | None = None
    enforce_https: bool = False
    tls: bool = False
    server_name: str | None = None
    location: str | None = None
    waker: str | None = None
    problem: str | None = None
    settings: str | None = None

    def __eq__(self, other: object) -> bool:
        """Compare all fields; most are compared with themselves, which takes no look at them."""
        return self is other or (isinstance(other, TableEntry) and _values(self) == _values(other))

    def __hash__(self) -> int:
        return hash((self.source, self.revision))


_values = attrgetter(*(item.name for item in fields(TableEntry)))


@dataclass(frozen=True, slots=True)
class EngineState:
    """What the engine said when the agent connected.

    `generation` is new at every start of NGINX. `loaded` is False until `set_loaded`: until then visitors are held.
    `routes` counts the entries (tombstones left out), `capacity` is how many fit for certain, `held` are the requests
    that wait right now. `connections` are those that clients have open, with or without a request; None where this
    engine does not count them.
    """

    generation: str
    loaded: bool
    routes: int
    capacity: int
    held: int = 0
    connections: int | None = None


@dataclass(frozen=True, slots=True)
class Flow:
    """The visitor's socket of one open stream: both ends, as address and port, as the engine sees them."""

    instance: str
    client: tuple[str, int]
    server: tuple[str, int]


class StaleSession(Exception):
    """A newer agent session took over: this agent must end."""


class TableFull(Exception):
    """No room for this source; what came before it in the batch was applied."""

    def __init__(self, source: str) -> None:
        super().__init__(source)
        self.source = source


class EngineGone(Exception):
    """The engine does not answer: connect again, and compare."""


class TableControl(Protocol):
    """The agent's way into the engine (`nginx/control.py`; tests use an in-memory one). One call at a time."""

    async def hello(self, session: int) -> EngineState:
        """Open a session: changes of sessions with lower numbers are refused from now on."""
        ...

    async def apply(self, entries: Sequence[TableEntry]) -> None:
        """Apply entries in order; one with an older revision than the table's own is skipped in silence.

        Raises:
            StaleSession: another agent took over.
            TableFull: no room.
            EngineGone: no answer.
        """
        ...

    async def set_wakers(self, places: Mapping[str, Place]) -> None:
        """Say where wakers are whose URLs have names in them; one that was not said yet can't be called."""
        ...

    async def read(self, sources: Sequence[str]) -> list[TableEntry | None]:
        """Return what the table really holds for these hosts (state, address, port, instance, revision at least)."""
        ...

    async def oldest(self, most: int) -> list[str]:
        """Return the sources that were looked up longest ago, at most so many; they count as looked up now.

        Those of tombstones too. Fewer than asked for are all that there are.
        """
        ...

    async def set_loaded(self, node: str, waker: str | None, waker_token: str | None) -> None:
        """Say that the table is complete, and give the node's name and the token for the waker of that URL."""
        ...

    async def counts(self, instances: Sequence[str]) -> list[InstanceCounts]:
        """Return this generation's counts of these instances, in the same order (`last_active` is left null)."""
        ...

    async def flows(self) -> list[Flow]:
        """Return the visitors' sockets of the open streams that keep their instance awake only while bytes flow."""
        ...

    async def forget(self, instances: Sequence[str]) -> list[str]:
        """Drop the counts of instances that are withdrawn, but of those with anything in flight; return which."""
        ...
