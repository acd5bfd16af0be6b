"""The interface of a peer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from bench.stage import Stage
from bench.usage import cpu_seconds, family, memory_bytes

Routes = Mapping[str, int]
"""Public host -> port of its target, on loopback."""


@dataclass(frozen=True, slots=True)
class Running:
    """A proxy that serves its routes: on which port, and by which processes."""

    port: int
    pids: Callable[[], list[int]]

    def cpu(self) -> float:
        """Return the processor time that it has used, in seconds."""
        return cpu_seconds(self.pids())

    def memory(self) -> int:
        """Return its memory, in bytes."""
        return memory_bytes(self.pids())


class Peer(Protocol):
    """Something that proxies by host, on one processor, with connections to its targets that are kept."""

    name: str
    program: str
    """What has to be installed for it, see `bench/install.py`; empty for what the product needs anyway."""
    most_routes: int
    """With more it can't be measured: it takes too long to start, or too much memory."""

    def start(self, stage: Stage, routes: Routes) -> Running:
        """Start it with these routes, and return it once it serves."""
        ...


def process_family(pid: int) -> Callable[[], list[int]]:
    """Return what lists a process with all that comes from it."""
    return lambda: family(pid)
