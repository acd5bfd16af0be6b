"""The groups of one installation in one hierarchy: one for each instance, under one that has the installation's name.

An instance is looked for where a control plane that was started now would put it, and else where its processes are: the
one that started it may have been in another session, and so under another group.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from sourcelair.servers.drivers.process.groups.hierarchies import Hierarchy, group_of, switch_on


class Tree:
    """Groups of instances.

    Args:
        hierarchy: where they are made.
        installation: the id whose group is above all of them.

    Raises:
        OSError: none can be made there.
    """

    def __init__(self, hierarchy: Hierarchy, installation: str) -> None:
        self.hierarchy = hierarchy
        self._base = hierarchy.parent / f"lair-{installation}"
        self._base.mkdir(exist_ok=True)
        self._elsewhere: dict[str, Path] = {}
        self.abilities = hierarchy.controllers
        if hierarchy.unified:
            self.abilities = switch_on(self._base, hierarchy.controllers)
            if (self._base / "cgroup.freeze").exists():
                self.abilities |= {"freezer"}

    def path(self, instance: str) -> Path:
        """Return the group of an instance, whether it was made or not."""
        return self._elsewhere.get(instance) or self._base / instance

    def locate(self, instance: str, pid: int) -> None:
        """Look where the group of an instance is, by one of its processes."""
        if self.path(instance).exists():
            return
        group = self.hierarchy.mount / group_of(pid, self.hierarchy.name).lstrip("/")
        for path in (group, *group.parents):
            if path.parts[-2:] == (self._base.name, instance):
                self._elsewhere[instance] = path

    def make(self, instance: str) -> Path:
        """Return the group of an instance, which is made.

        Raises:
            OSError: it can't be.
        """
        group = self.path(instance)
        group.mkdir(parents=True, exist_ok=True)
        return group

    def move(self, instance: str, pid: int) -> None:
        """Move a process into the group of an instance, which is made if need be.

        Raises:
            OSError: it can't be moved; ProcessLookupError: it has ended.
        """
        (self.make(instance) / "cgroup.procs").write_text(str(pid))

    def release(self, pid: int) -> None:
        """Move a process out, to above all instances."""
        with contextlib.suppress(OSError):
            (self.hierarchy.parent / "cgroup.procs").write_text(str(pid))

    def pids(self, instance: str) -> list[int]:
        """Return the processes in the group of an instance, and in those that it made below."""
        found: list[int] = []
        for directory, _, _ in os.walk(self.path(instance)):
            with contextlib.suppress(OSError):
                found += map(int, Path(directory, "cgroup.procs").read_text().split())
        return found

    def remove(self, instance: str) -> bool:
        """Remove the group of an instance with those below it, as far as they are empty; returns whether it is gone."""
        own = self.path(instance)
        for directory, _, _ in os.walk(self.path(instance), topdown=False):
            with contextlib.suppress(OSError):
                Path(directory).rmdir()
        if (elsewhere := self._elsewhere.pop(instance, None)) is not None:
            with contextlib.suppress(OSError):
                elsewhere.parent.rmdir()
        return not own.exists()

    def instances(self) -> list[str]:
        """Return the ids of the instances that have a group."""
        try:
            return [entry.name for entry in os.scandir(self._base) if entry.is_dir()]
        except OSError:
            return []

    def close(self) -> None:
        """Remove the group above all of them if it is empty."""
        with contextlib.suppress(OSError):
            self._base.rmdir()
