"""Where on this machine groups can be made, and what they can do there.

In v2 a group that has processes can't give controllers to the groups below it (only the root can), see "No Internal
Process Constraint" in the kernel's cgroup-v2.rst. So where a service manager gave us a group of our own to use
(delegation; systemd marks it), we move into one below it first; else a group beside ours will do.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

CGROUPS = Path("/sys/fs/cgroup")

Ability = Literal["pids", "memory", "cpu", "freezer"]
"""What a group can do besides holding processes, by the names of v1's controllers."""

CONTROLLERS: frozenset[str] = frozenset(get_args(Ability)) - {"freezer"}
"""Those that v2 has as controllers too; there every group but the root can freeze."""

CONTROL = "lair-control-plane"
"""The group of ours into which a control plane moves, so that the one above can hand out controllers."""


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """A place for groups.

    Attributes:
        mount: of the whole hierarchy.
        parent: the group under which ours are made.
        controllers: what it offers.
        name: of its v1 controller; empty for v2.
    """

    mount: Path
    parent: Path
    controllers: frozenset[str]
    name: str = ""

    @property
    def unified(self) -> bool:
        """Whether it is of v2."""
        return not self.name


def group_of(pid: int | Literal["self"], name: str) -> str:
    """Return the path of a process's group in a v1 hierarchy, or with an empty name in v2; `/` if unknown."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
            _, names, path = line.split(":", 2)
            if name in names.split(","):
                return path
    return "/"


def _usable(parent: Path) -> bool:
    return os.access(parent, os.W_OK) and os.access(parent / "cgroup.procs", os.W_OK)


def find_hierarchies(*, change: bool = True, wanted: frozenset[str] = CONTROLLERS) -> list[Hierarchy]:
    """Return where this process may make groups, the place with the most abilities first.

    Args:
        change: switch on controllers for the groups of v2, and move this process if that needs it. Without, what could
            be switched on counts as if it were.
        wanted: controllers of v2 that are switched on.
    """
    found: list[Hierarchy] = []
    for mount in (CGROUPS, CGROUPS / "unified"):
        if (mount / "cgroup.controllers").exists():
            found += _find_unified(mount, wanted, change=change)
            break
    for name in get_args(Ability):
        parent = CGROUPS / name / group_of("self", name).lstrip("/")
        if _usable(parent):
            found.append(Hierarchy(CGROUPS / name, parent, frozenset({name}), name))
    return found


def _find_unified(mount: Path, wanted: frozenset[str], *, change: bool) -> Iterator[Hierarchy]:
    own = mount / group_of("self", "").lstrip("/")
    if own.name == CONTROL:
        own = own.parent
    best: Hierarchy | None = None
    for parent in (own, own.parent):
        if not parent.is_relative_to(mount) or not _usable(parent):
            continue
        possible = wanted.intersection(_words(parent / "cgroup.controllers"))
        controllers = _offer(parent, possible, own=own) if change else possible
        if best is None or len(controllers) > len(best.controllers):
            best = Hierarchy(mount, parent, controllers)
        if controllers == wanted:
            break
    if best is not None:
        yield best


def _offer(parent: Path, wanted: frozenset[str], *, own: Path) -> frozenset[str]:
    """Give controllers to the groups below a group, and return which of them those have."""
    offered = switch_on(parent, wanted)
    if offered != wanted and parent == own and _is_ours(parent) and _make_way(parent):
        offered = switch_on(parent, wanted)
    return offered


def switch_on(group: Path, controllers: frozenset[str]) -> frozenset[str]:
    """Switch controllers of v2 on for the groups below a group, and return which of them are on."""
    control = group / "cgroup.subtree_control"
    for controller in sorted(controllers.difference(_words(control))):
        with contextlib.suppress(OSError):  # One at a time: what this machine lacks does not take the others along.
            control.write_text(f"+{controller}")
    return controllers.intersection(_words(control))


def _words(file: Path) -> list[str]:
    try:
        return file.read_text().split()
    except OSError:
        return []


def _is_ours(group: Path) -> bool:
    """Whether a service manager gave us this group, or nobody else is in it: then its processes may be moved."""
    for attribute in ("user.delegate", "trusted.delegate"):
        with contextlib.suppress(OSError):
            if os.getxattr(group, attribute) == b"1":
                return True
    return _words(group / "cgroup.procs") == [str(os.getpid())]


def _make_way(group: Path) -> bool:
    """Move the processes of a group into one below it; returns whether none is left."""
    leaf = group / CONTROL
    try:
        leaf.mkdir(exist_ok=True)
        for pid in _words(group / "cgroup.procs"):
            (leaf / "cgroup.procs").write_text(pid)
    except OSError:
        return False
    return not _words(group / "cgroup.procs")
