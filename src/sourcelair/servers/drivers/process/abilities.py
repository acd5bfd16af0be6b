"""What this machine can enforce for instances: said to whoever asks for more, and to `lair doctor`."""

from __future__ import annotations

from collections.abc import Collection

from sourcelair.client.policy import seconds
from sourcelair.client.servers import Spec
from sourcelair.errors import InvalidInput
from sourcelair.servers.drivers.process.groups import find_hierarchies

HOW = "run `lair up` as root, or where cgroups are delegated to you (systemd: Delegate=yes)"
NO_CPU = "this machine lets SourceLair limit no processors: the cpu controller of cgroups is not available to it"


def check_abilities(spec: Spec, abilities: Collection[str]) -> None:
    """Refuse what this machine can't do for a spec that says so itself.

    Args:
        spec: as its user wrote it.
        abilities: of the cgroups here.

    Raises:
        InvalidInput: with what is missing and what to do.
    """
    if spec.limits.cpus is not None and "cpu" not in abilities:
        raise InvalidInput(f"spec.limits.cpus: {NO_CPU}; {HOW}, or leave limits.cpus out")
    if seconds(spec.sleep.doze_after) is not None and "freezer" not in abilities:
        raise InvalidInput(
            "spec.sleep.doze_after: this machine lets SourceLair freeze no processes: no cgroup can be made here; "
            f"{HOW}, or leave sleep.doze_after out"
        )


def describe(abilities: Collection[str]) -> dict[str, str]:
    """Return a sentence each on how instances are told apart, limited and paused with these cgroups."""
    return {
        "isolation": "Every instance has a cgroup of its own."
        if "tracking" in abilities
        else "No cgroup can be made here: a child that leaves its session and environment is not found.",
        "processes": "A limit of processes counts those of the instance."
        if "pids" in abilities
        else "A limit of processes counts all of the user's.",
        "memory": "A limit of memory holds for all processes of an instance together."
        if "memory" in abilities
        else "A limit of memory holds for the address space of each process alone.",
        "cpu": "A limit of processors is enforced." if "cpu" in abilities else "Processors can't be limited.",
        "pause": "Idle servers can doze." if "freezer" in abilities else "Servers can't doze, only be stopped.",
    }


def lacking(abilities: Collection[str]) -> bool:
    """Return whether anything is missing."""
    return not {"tracking", "pids", "memory", "cpu", "freezer"}.issubset(abilities)


def possible() -> frozenset[str]:
    """Return what a control plane that was started here, as this user, could do. Changes nothing."""
    found = find_hierarchies(change=False)
    abilities = {ability for hierarchy in found for ability in hierarchy.controllers}
    if found:
        abilities.add("tracking")
    if any(hierarchy.unified for hierarchy in found):
        abilities.add("freezer")
    return frozenset(abilities)
