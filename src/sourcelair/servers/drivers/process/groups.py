"""A cgroup for each instance, where the machine allows it: it holds all that an instance ever forks.

Membership is all that is asked of it, and a limit of processes where the `pids` controller is there; so it works with
cgroup v1 (`pids`) and v2, delegated or root. A process moves in after it started, since the kernel takes 8 to 16 ms
for a first move (it waits for a grace period of RCU), and that must not be part of a wake. Without a cgroup
an instance is known by its session and environment alone: a child that leaves both is not found.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from sourcelair.servers.drivers.process.identity import read_stat
from sourcelair.telemetry import get_logger

log = get_logger(__name__)

CGROUPS = Path("/sys/fs/cgroup")


def own_group(hierarchy: str) -> str:
    """Return the path of this process's group in a v1 hierarchy, or with an empty name in v2."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        if hierarchy in names.split(","):
            return path
    return "/"


def find_parent() -> Path | None:
    """Return the group under which this process may make others, or None."""
    candidates = [
        (CGROUPS / "pids", "pids"),
        (CGROUPS / "unified", ""),
        (CGROUPS, ""),
    ]
    for mount, hierarchy in candidates:
        parent = mount / own_group(hierarchy).lstrip("/")
        if (
            (parent / "cgroup.procs").exists()
            and os.access(parent, os.W_OK)
            and os.access(parent / "cgroup.procs", os.W_OK)
        ):
            return parent
    return None


def children(pid: int) -> list[int]:
    """Return the processes that a process forked and that still are its children; none where the kernel can't tell."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):  # noqa: PTH208 - the names are the ids
            found += map(int, Path(f"/proc/{pid}/task/{task}/children").read_text().split())
    return found


class Groups:
    """The cgroups of one installation.

    Args:
        installation: its id, which names the group above all of them.
        parent: under which that one is made; None for a machine that does not allow it.
    """

    def __init__(self, installation: str, parent: Path | None) -> None:
        self._parent = parent
        self._base = parent / f"lair-{installation}" if parent else None
        if self._base is not None:
            try:
                self._base.mkdir(exist_ok=True)
            except OSError:
                self._base = None

    @property
    def available(self) -> bool:
        """Whether there are any."""
        return self._base is not None

    def path(self, instance: str) -> Path | None:
        """Return the group of an instance, whether it was made or not."""
        return self._base / instance if self._base else None

    def make(self, instance: str, processes: int | None) -> tuple[Path | None, bool]:
        """Make the group of an instance.

        Args:
            instance: its id.
            processes: a limit of processes and threads.

        Returns:
            the group, or None; and whether the limit is set there.
        """
        group = self.path(instance)
        if group is None:
            return None, False
        try:
            group.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            log.warning("no cgroup", instance=instance, error=str(error))
            return None, False
        if processes is None:
            return group, False
        try:
            (group / "pids.max").write_text(str(processes))
        except OSError:
            return group, False
        return group, True

    def join(self, instance: str, pid: int, start: int) -> None:
        """Move a process and what it has forked into its group: some milliseconds, blocking.

        A process or a group that is gone is no error.
        """
        group = self.path(instance)
        if group is None or self._parent is None:
            return
        try:
            (group / "cgroup.procs").write_text(str(pid))
        except OSError as error:
            log.debug("cgroup not joined", instance=instance, error=str(error))
            return
        stat = read_stat(pid)
        if stat is not None and stat.start != start:  # It ended meanwhile, and its pid was taken.
            with contextlib.suppress(OSError):
                (self._parent / "cgroup.procs").write_text(str(pid))
            return
        for child in children(pid):
            if (forked := read_stat(child)) is not None:
                self.join(instance, child, forked.start)

    def pids(self, instance: str) -> list[int]:
        """Return the processes in the group, and in those that it made below."""
        group = self.path(instance)
        found: list[int] = []
        if group is None:
            return found
        for directory, _, _ in os.walk(group):
            with contextlib.suppress(OSError):
                found += map(int, Path(directory, "cgroup.procs").read_text().split())
        return found

    def kill(self, instance: str) -> None:
        """Kill the whole group at once where the kernel can, and else stop it from forking."""
        group = self.path(instance)
        if group is None:
            return
        for name, value in (("cgroup.kill", "1"), ("pids.max", "0")):
            with contextlib.suppress(OSError):
                (group / name).write_text(value)
                return

    def remove(self, instance: str) -> None:
        """Remove the group, which must be empty by now, and those below it."""
        group = self.path(instance)
        if group is None:
            return
        for directory, _, _ in os.walk(group, topdown=False):
            with contextlib.suppress(OSError):
                Path(directory).rmdir()

    def close(self) -> None:
        """Remove the group above all of them if it is empty."""
        if self._base is not None:
            with contextlib.suppress(OSError):
                self._base.rmdir()

    def instances(self) -> list[str]:
        """Return the ids of the instances that have a group."""
        try:
            return [entry.name for entry in os.scandir(self._base) if entry.is_dir()] if self._base else []
        except OSError:
            return []
