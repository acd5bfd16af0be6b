"""Where groups can be made, and what is written to those of v2."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sourcelair.client.policy import Limits
from sourcelair.servers.drivers.process.groups import Groups, Hierarchy, find_hierarchies
from sourcelair.servers.drivers.process.groups.hierarchies import CONTROLLERS


@pytest.fixture
def delegated(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A real group of v2, with a controller that it may hand out and nothing does yet."""
    (place,) = [each for each in find_hierarchies() if each.unified] or pytest.skip("cgroup v2 can't be used here")
    controllers = (place.mount / "cgroup.controllers").read_text().split()
    if not controllers or os.geteuid() != 0:
        pytest.skip("no controller of cgroup v2 is free here, or it can't be switched on")
    group = place.mount / f"lair-delegated-{os.getpid()}"
    before = (place.mount / "cgroup.subtree_control").read_text().split()
    (place.mount / "cgroup.subtree_control").write_text(f"+{controllers[0]}")
    group.mkdir()
    yield group, controllers[0]
    for directory, _, _ in os.walk(group, topdown=False):
        Path(directory).rmdir()
    if controllers[0] not in before:
        (place.mount / "cgroup.subtree_control").write_text(f"-{controllers[0]}")


FIND = """
import os, sys, json
group, controller = sys.argv[1:]
open(f"{group}/cgroup.procs", "w").write(str(os.getpid()))
from sourcelair.servers.drivers.process.groups import Groups, find_hierarchies
from sourcelair.servers.drivers.process.groups.hierarchies import group_of
for _ in range(2):
    found = [each for each in find_hierarchies(wanted=frozenset({controller})) if each.unified]
groups = Groups("mine", found)
print(json.dumps([str(found[0].parent), sorted(groups.abilities), group_of("self", "")]))
groups.close()
"""


def test_a_delegated_group_hands_out_its_controllers(delegated: tuple[Path, str]) -> None:
    """A control plane that is alone in its group moves below it, once, since one with processes hands out nothing."""
    group, controller = delegated
    done = subprocess.run(
        [sys.executable, "-c", FIND, str(group), controller], capture_output=True, text=True, check=True
    )
    parent, abilities, own = json.loads(done.stdout)
    assert parent == str(group)
    assert controller in abilities
    assert "freezer" in abilities
    assert own.endswith(f"/{group.name}/lair-control-plane")


def test_looking_changes_nothing(delegated: tuple[Path, str]) -> None:
    """`lair doctor` may look where nothing runs."""
    group, controller = delegated
    (place,) = (each for each in find_hierarchies(change=False, wanted=frozenset({controller})) if each.unified)
    assert place.controllers <= CONTROLLERS | {controller}
    assert (group / "cgroup.subtree_control").read_text().split() == []


def test_what_is_written_to_groups_of_v2(tmp_path: Path) -> None:
    """The files and values of cgroup-v2.rst; here plain files stand for them, as no machine of ours has these."""
    (tmp_path / "cgroup.controllers").write_text("cpu memory pids")
    base = tmp_path / "lair-mine"
    base.mkdir()
    (base / "cgroup.subtree_control").write_text("cpu memory pids")
    (base / "cgroup.freeze").write_text("0")
    group = base / "one"
    group.mkdir()
    for name in ("memory.swap.max", "memory.oom.group"):
        (group / name).write_text("max")
    groups = Groups("mine", [Hierarchy(tmp_path, tmp_path, CONTROLLERS)])
    assert groups.abilities == {"tracking", "freezer", "cpu", "memory", "pids"}
    limited = groups.limit("one", Limits(processes=7, memory_bytes=64 << 20, cpus=0.5))
    assert limited.groups == (group,), "it is joined once"
    assert limited.enforced == {"cpu", "memory", "pids"}
    written = {file.name: file.read_text() for file in group.iterdir()}
    assert written == {
        "pids.max": "7",
        "memory.max": str(64 << 20),
        "memory.swap.max": "0",
        "memory.oom.group": "1",
        "cpu.max": "50000 100000",
    }
    (group / "memory.events").write_text("low 0\nhigh 0\nmax 12\noom 1\noom_kill 0\noom_group_kill 0\n")
    assert not groups.killed_for_memory("one")
    (group / "memory.events").write_text("low 0\nhigh 0\nmax 12\noom 1\noom_kill 2\noom_group_kill 1\n")
    assert groups.killed_for_memory("one")
