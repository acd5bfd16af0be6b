"""The interface of a driver: a small set of actions on instances, each named by an id that is never reused.

The id is stored before anything of an instance runs, so whatever a driver finds can be matched with a record. `start`
must be *fenced*: whoever calls `void` first wins, and a start that is still on its way from a process that was killed
or paused then comes to nothing. All actions may be repeated.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from sourcelair.client.policy import Limits
from sourcelair.client.servers import Spec

Handle = dict[str, Any]
"""What a driver needs to find an instance again, as JSON: kept in the server's record."""

Capability = Literal["pause", "stats", "events"]
"""What only some drivers can. One driver may have an ability on one machine and lack it on another."""


class StartFailed(Exception):
    """The instance can't be started: a missing program, a directory that is gone. The message is for a person."""


class StartVoided(Exception):
    """The instance id was claimed by `void` before this start got that far: nothing runs."""


class PauseFailed(Exception):
    """The instance can't be paused now: it runs on, or has ended. The message is for a person."""


@dataclass(frozen=True, slots=True)
class StartOrder:
    """All that a driver is told. `env` is complete: PORT, LAIR_INSTANCE and the like are in it already.

    `limits` are those in effect: what the spec leaves open may come from its owner. What the spec itself says must be
    enforced, or the start fails; of what its owner says, a driver enforces what it can.
    """

    instance: str
    owner: str
    project: str
    spec: Spec
    port: int
    env: Mapping[str, str]
    log: Path
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True, slots=True)
class Listener:
    """Where the instance itself was seen to listen.

    `backlog` is the length of its accept queue, if known. `local`: other machines do not reach it, as on loopback.
    """

    host: str
    port: int
    backlog: int | None = None
    local: bool = False


@dataclass(frozen=True, slots=True)
class ExitStatus:
    """How an instance ended. Both null: it is gone, and nobody saw how."""

    code: int | None = None
    signal: int | None = None
    out_of_memory: bool = False


@dataclass(frozen=True, slots=True)
class Found:
    """An instance that runs, as `find_all` and `inspect` see it.

    `paused` is also true of one that was being paused when the control plane ended: only `resume` is sure to undo it.
    """

    instance: str
    handle: Handle
    pid: int | None
    started_at: float
    paused: bool = False
    details: Mapping[str, Any] = field(default_factory=dict)


First = Callable[[Callable[[], None]], Awaitable[None]]
"""What is done before anything of an instance runs. It calls what it is given as soon as that is done, and may return
later."""


async def nothing(go: Callable[[], None]) -> None:
    """Do nothing first."""
    go()


class Driver(Protocol):
    """What runs instances."""

    name: str

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What this driver can here, beyond what all of them can. It stays the same as long as the object lives.

        Without `pause`, `pause` always fails, and `check` refuses a spec that asks to doze.
        """
        ...

    def check(self, spec: Spec) -> None:
        """Refuse a spec that can never work, also for what this machine can't do: dozing, a share of its processors.

        Raises:
            InvalidInput: with what to change.
        """
        ...

    async def start(self, order: StartOrder, first: First = nothing) -> Found:
        """Start the instance and return as soon as it runs (not: is ready).

        Args:
            order: what to start.
            first: awaited, once and in any case. Nothing of the instance runs before it has called what it is given,
                and no failure is told before it has returned. A driver may prepare meanwhile what goes away by itself
                should this process be killed.

        Raises:
            StartFailed: it can't run.
            StartVoided: `void` came first.
            Exception: whatever `first` raised; nothing ran then, and nothing will.
        """
        ...

    async def void(self, instance: str) -> bool:
        """Make sure that a start of this id that is still on its way never runs anything.

        Returns:
            True if it is void now; False if the instance had started before: `inspect` finds it, or it has ended.
        """
        ...

    async def inspect(self, instance: str, handle: Handle | None) -> Found | None:
        """Return the instance if it runs (compared by identity, never by a bare pid), else None."""
        ...

    async def find_all(self) -> list[Found]:
        """Return every running instance of this installation, also those that no record names."""
        ...

    async def listener(self, found: Found, port: int) -> Listener | None:
        """Return where the instance itself listens on `port`; None while it does not (or somebody else does)."""
        ...

    async def listening_elsewhere(self, found: Found) -> list[int]:
        """Return the other ports on which the instance listens, for the message to its user."""
        ...

    async def wait_exit(self, found: Found) -> ExitStatus:
        """Return once the instance's main process is gone. Cancelling is safe."""
        ...

    async def stop(self, found: Found, grace: float) -> ExitStatus:
        """Ask it to end, and after `grace` seconds kill the whole group; return when nothing of it is left.

        A paused instance is resumed by it: it must not be resumed before, and has its whole grace.
        """
        ...

    async def pause(self, found: Found) -> None:
        """Freeze all its processes, in memory as they are, with what they fork: nothing of it runs until `resume`.

        Its sockets stay: the kernel goes on accepting connections for it, and it answers them once it is resumed.
        Where this call is cancelled it may happen all the same; call `resume` then. A pause that is overtaken by
        `resume` or `stop` fails, and never undoes them.

        Raises:
            PauseFailed: not within a second or so, or it has ended, or this driver can't. It runs on as before.
        """
        ...

    async def resume(self, found: Found) -> None:
        """Let it run again; this takes about a millisecond. What is not paused, or has ended, is no error."""
        ...

    def logs(
        self, log: Path, *, lines: int, follow: bool, until: asyncio.Event | None = None, begin: int | None = None
    ) -> AsyncGenerator[bytes, None]:
        """Give the last lines of a log, and with `follow` all that comes, to its end once `until` is set.

        With `follow`, what lies before the byte `begin` is left out, if the log was not rotated since it was that long.
        """
        ...

    async def forget(self, instance: str) -> None:
        """Remove what was kept about an instance that has ended and that no record names any more."""
        ...
