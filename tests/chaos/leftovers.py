"""What an installation left behind: processes and cgroups, found by its id."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

from tests.system.lair import Lair

CGROUPS = Path("/sys/fs/cgroup")

SETTLED = 15.0
"""Seconds within which all of a stopped server must be gone."""


def groups(lair: Lair) -> list[str]:
    """Return the cgroups of instances, in whatever hierarchy."""
    base = f"lair-{(lair.data_dir / 'installation').read_text().strip()}"
    found = []
    for folder, children, _ in os.walk(CGROUPS):
        if os.path.basename(folder) == base:  # noqa: PTH119 - a plain text, thousands of times
            found += [f"{folder}/{child}" for child in children]
            children.clear()
    return found


async def orphans(lair: Lair) -> list[str]:
    """Return what is there after every server was stopped; what is just going has its time to go."""
    deadline = time.monotonic() + SETTLED
    while left := [*(f"process {process.pid}" for process in lair.instances()), *groups(lair)]:
        if time.monotonic() > deadline:
            return left
        await asyncio.sleep(0.1)
    return []
