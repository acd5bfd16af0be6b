"""How much memory there is: this machine's, or what our own memory cgroup may use where that is less."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes that can still be had without swapping, and bytes in all."""

    available: int
    total: int

    @property
    def free(self) -> float:
        """The part that can still be had."""
        return self.available / self.total if self.total else 1.0


def read_memory(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> Memory | None:
    """Return what is scarcest: this machine's memory, or that of a cgroup that we are in. None: nobody says.

    Args:
        proc: where the kernel says it.
        cgroups: where they are mounted: version 2, or version 1's controllers each in its own folder.
    """
    known = [memory for memory in (_machine(proc), *_cgroups(proc, cgroups)) if memory is not None]
    return min(known, key=lambda memory: memory.free, default=None)


def _machine(proc: Path) -> Memory | None:
    values = _table(proc / "meminfo")
    if "MemTotal:" not in values or "MemAvailable:" not in values:
        return None
    return Memory(values["MemAvailable:"] << 10, values["MemTotal:"] << 10)


def _cgroups(proc: Path, mount: Path) -> Iterator[Memory | None]:
    """Give what our memory cgroup may use, and each one above it: the tightest counts."""
    try:
        lines = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root = mount / "memory" if controllers else mount
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if controllers else ("memory.max", "memory.current")
        inside = Path(path.lstrip("/"))
        for part in (inside, *inside.parents):
            yield _cgroup(root / part, *names)


def _cgroup(folder: Path, limit: str, usage: str) -> Memory | None:
    try:
        most, used = int((folder / limit).read_text()), int((folder / usage).read_text())
    except (OSError, ValueError):  # there is none of that name, or no limit ("max")
        return None
    stat = _table(folder / "memory.stat")
    # Files that nobody used for a while: the kernel gives that up before anything else.
    reclaimable = stat.get("total_inactive_file", stat.get("inactive_file", 0))
    return Memory(min(most, max(0, most - used + reclaimable)), most)


def _table(file: Path) -> dict[str, int]:
    try:
        rows = [line.split() for line in file.read_text().splitlines()]
    except OSError:
        return {}
    return {row[0]: int(row[1]) for row in rows if len(row) > 1 and row[1].isdigit()}
