"""The groups of all instances of one installation, in every hierarchy that this machine allows.

Without limits a process moves in after it has started, since the kernel takes 5 to 16 ms for a first move (it waits for
a grace period of RCU; further ones cost a tenth of a millisecond), and that must not be part of a wake. With limits it
puts itself into those groups that limit it before it becomes the command. Without any group an instance is known by its
session and environment alone: a child that leaves both is not found.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sourcelair.client.policy import Limits
from sourcelair.servers.drivers.process.groups import freezer, limits
from sourcelair.servers.drivers.process.groups.hierarchies import Ability, Hierarchy
from sourcelair.servers.drivers.process.groups.tree import Tree
from sourcelair.servers.drivers.process.identity import Identity, is_running, read_stat, this_boot
from sourcelair.telemetry import get_logger

log = get_logger(__name__)


def children(pid: int) -> list[int]:
    """Return the processes that a process forked and that still are its children; none where the kernel can't tell."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):  # noqa: PTH208 - the names are the ids
            found += map(int, Path(f"/proc/{pid}/task/{task}/children").read_text().split())
    return found


@dataclass(frozen=True, slots=True)
class Limited:
    """Groups that limit an instance: those that it must join, and what they enforce."""

    groups: tuple[Path, ...] = ()
    enforced: frozenset[Ability] = frozenset()


class Groups:
    """The groups of one installation.

    Args:
        installation: its id, which names the group above all of them in each hierarchy.
        hierarchies: where they are made; none on a machine that does not allow it.
    """

    def __init__(self, installation: str, hierarchies: Sequence[Hierarchy]) -> None:
        self._trees: list[Tree] = []
        self._able: dict[str, Tree] = {}
        self._closed = False
        for hierarchy in hierarchies:
            if hierarchy.name and hierarchy.name in self._able:
                continue
            try:
                tree = Tree(hierarchy, installation)
            except OSError as error:
                log.warning("no cgroups", below=str(hierarchy.parent), error=str(error))
                continue
            self._trees.append(tree)
            for ability in tree.abilities:
                self._able.setdefault(ability, tree)

    @property
    def abilities(self) -> frozenset[str]:
        """What they can, by the names of v1's controllers; `tracking` where there are any at all."""
        return frozenset(self._able) | ({"tracking"} if self._trees else set())

    def limit(self, instance: str, asked: Limits) -> Limited:
        """Make the groups that enforce limits, as far as this machine can."""
        wanted: dict[Ability, object] = {
            "pids": asked.processes,
            "memory": asked.memory_bytes,
            "cpu": asked.cpus,
        }
        groups: list[Path] = []
        enforced: set[Ability] = set()
        for ability, value in wanted.items():
            tree = self._able.get(ability)
            if value is None or tree is None:
                continue
            try:
                group = tree.make(instance)
                self._write(group, ability, asked, unified=tree.hierarchy.unified)
            except OSError as error:
                log.warning("limit not enforced", instance=instance, controller=ability, error=str(error))
                continue
            enforced.add(ability)
            if group not in groups:
                groups.append(group)
        return Limited(tuple(groups), frozenset(enforced))

    @staticmethod
    def _write(group: Path, ability: Ability, asked: Limits, *, unified: bool) -> None:
        if ability == "pids" and asked.processes is not None:
            limits.limit_processes(group, asked.processes)
        elif ability == "memory" and asked.memory_bytes is not None:
            limits.limit_memory(group, asked.memory_bytes, unified=unified)
        elif ability == "cpu" and asked.cpus is not None:
            limits.limit_cpus(group, asked.cpus, unified=unified)

    def join(self, instance: str, pid: int, start: int) -> None:
        """Move a process and what it has forked into all groups of its instance: some milliseconds, blocking.

        A process that is gone is no error.
        """
        if not self._trees:
            return
        self._move(instance, pid, start)
        if not is_running(Identity(pid, start, this_boot())):  # It may have been cleared away before we came.
            self.remove(instance)
            if self._closed:
                self.close()

    def _move(self, instance: str, pid: int, start: int) -> None:
        for tree in self._trees:
            try:
                tree.move(instance, pid)
            except OSError as error:
                log.debug("cgroup not joined", instance=instance, error=str(error))
        stat = read_stat(pid)
        if stat is not None and stat.start != start:  # Its pid was taken meanwhile.
            for tree in self._trees:
                tree.release(pid)
            return
        for child in children(pid):
            if (forked := read_stat(child)) is not None:
                self._move(instance, child, forked.start)

    def locate(self, instance: str, pid: int) -> None:
        """Find the groups of an instance that a control plane in another session has made."""
        for tree in self._trees:
            tree.locate(instance, pid)

    def pids(self, instance: str) -> list[int]:
        """Return the processes in any of its groups."""
        return sorted({pid for tree in self._trees for pid in tree.pids(instance)})

    def kill(self, instance: str) -> None:
        """Kill the whole of it at once where the kernel can, and stop it from forking where it can't."""
        for tree in self._trees:
            for name, value in (("cgroup.kill", "1"), ("pids.max", "0")):
                file = tree.path(instance) / name
                if file.exists():
                    with contextlib.suppress(OSError):
                        file.write_text(value)

    def freeze(self, instance: str) -> None:
        """Begin to freeze an instance, also what comes into its group later.

        Raises:
            OSError: it can't be.
        """
        tree = self._able["freezer"]
        freezer.begin(tree.make(instance), unified=tree.hierarchy.unified)

    def wait_frozen(self, instance: str, deadline: float) -> bool:
        """Wait until it is frozen, or until a time of the monotonic clock; returns whether it is.

        Raises:
            OSError: its group is gone.
        """
        tree = self._able["freezer"]
        return freezer.wait(tree.path(instance), deadline, unified=tree.hierarchy.unified)

    def pids_in_freezer(self, instance: str) -> list[int]:
        """Return those of its processes that its freezing reaches."""
        return self._able["freezer"].pids(instance)

    def move_into_freezer(self, instance: str, pid: int) -> None:
        """Let freezing reach a process.

        Raises:
            OSError: it can't be moved; ProcessLookupError: it has ended.
        """
        self._able["freezer"].move(instance, pid)

    def thaw(self, instance: str) -> None:
        """Let an instance run; one that runs, or is gone, is no error."""
        for tree in self._trees:
            if "freezer" in tree.abilities:
                freezer.thaw(tree.path(instance), unified=tree.hierarchy.unified)

    def is_frozen(self, instance: str) -> bool:
        """Return whether it is frozen, or about to be."""
        return any(
            freezer.is_asked(tree.path(instance), unified=tree.hierarchy.unified)
            for tree in self._trees
            if "freezer" in tree.abilities
        )

    def killed_for_memory(self, instance: str) -> bool:
        """Return whether the kernel killed any of it because memory was short. Ask before it is removed."""
        tree = self._able.get("memory")
        return tree is not None and limits.killed_for_memory(tree.path(instance), unified=tree.hierarchy.unified)

    def remove(self, instance: str) -> bool:
        """Remove its groups, which must be empty by now, and those below them; returns whether all are gone.

        The kernel may hold one for a moment after its last process has ended.
        """
        gone = [tree.remove(instance) for tree in self._trees]
        return all(gone)

    def sweep(self) -> None:
        """Remove the groups of instances of which nothing is left: those of a control plane that was killed."""
        for instance in self.instances():
            self.remove(instance)

    def close(self) -> None:
        """Remove the groups above all of them, where they are empty."""
        self._closed = True
        for tree in self._trees:
            tree.close()

    def instances(self) -> list[str]:
        """Return the ids of the instances that have a group."""
        return sorted({instance for tree in self._trees for instance in tree.instances()})
