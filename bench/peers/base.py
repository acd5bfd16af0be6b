"""The interface of a peer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from bench.asking import Call
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


class ByApi(Peer, Protocol):
    """A peer whose routes are changed over its API."""

    api_port: int
    """Known once it is started."""
    api_connections: int
    """With so many at once its API takes the most changes."""

    def change(self, host: str, target: int) -> Call:
        """Return what sets one route."""
        ...

    def changes(self, routes: Routes) -> Call | None:
        """Return what sets all of its routes at once; None where its API can't do so."""
        ...


class ByFile(Peer, Protocol):
    """A peer whose routes are changed by a new file of all of them, moved to where the last one was."""

    file: Path
    """Known once it is started."""

    def content(self, routes: Routes) -> bytes:
        """Return the file of these routes."""
        ...


def replace(file: Path, content: bytes) -> None:
    """Move a new file to where one is or is to be, so that nobody ever reads half of it."""
    new = file.with_suffix(".new")
    new.write_bytes(content)
    new.rename(file)


def process_family(pid: int) -> Callable[[], list[int]]:
    """Return what lists a process with all that comes from it."""
    return lambda: family(pid)
