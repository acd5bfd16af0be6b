"""All servers counted as they change, so that nobody has to look at each of them: by state, and by instance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import get_args

from sourcelair.client.servers import State
from sourcelair.servers.metrics import THAWS
from sourcelair.servers.records import ServerRecord

STATES: tuple[str, ...] = get_args(State)

_SERVING = frozenset({"awake", "draining"})
"""States in which an instance is ready, and takes processor time."""


class Population:
    """What is known of all servers together.

    Args:
        clock: Unix seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.states: Counter[str] = Counter()
        """How many servers are in each state."""
        self.by_instance: dict[str, tuple[str, str]] = {}
        """Owner and project of the server whose instance it is right now."""
        self._awake: dict[str, float] = {}
        self._awake_before = 0.0

    def changed(self, before: ServerRecord | None, after: ServerRecord | None) -> None:
        """Take note of a server that was stored; without `before` it is a new one, without `after` it is forgotten."""
        if before is not None:
            self.states[before.state] -= 1
            if before.instance is not None:
                self.by_instance.pop(before.instance.id, None)
        if after is not None:
            self.states[after.state] += 1
            if after.instance is not None:
                self.by_instance[after.instance.id] = (after.owner, after.project)
        self._count_awake(before, after)
        if before is not None and after is not None and after.state == "awake" != before.state:
            thawed = after.timing.thawed if after.timing is not None and after.timing is not before.timing else None
            if thawed is not None:
                THAWS.observe(thawed / 1000)

    def _count_awake(self, before: ServerRecord | None, after: ServerRecord | None) -> None:
        was = before is not None and before.state in _SERVING
        serves = after is not None and after.state in _SERVING
        if serves and not was and after is not None:
            self._awake[after.name] = self._clock()
        elif was and not serves and before is not None:
            self._awake_before += max(0.0, self._clock() - self._awake.pop(before.name, self._clock()))

    def seconds_awake(self) -> float:
        """Return the seconds that servers were awake since this began, all of them together."""
        now = self._clock()
        return self._awake_before + sum(max(0.0, now - since) for since in self._awake.values())
