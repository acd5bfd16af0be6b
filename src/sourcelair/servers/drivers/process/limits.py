"""Limits of an instance, set by prlimit(1) in the process that becomes the command.

Processes and memory are limited by the instance's cgroups where they have the controllers. What is used else is weaker:
RLIMIT_NPROC counts all processes of the user, and does not hold for root; RLIMIT_AS counts the address space of each
process alone.
"""

from __future__ import annotations

import resource
import shutil
from collections.abc import Collection

from sourcelair.client.policy import Limits
from sourcelair.servers.drivers.base import StartFailed


def prefix(limits: Limits, enforced: Collection[str]) -> list[str]:
    """Return what to put before a command so that it runs under these limits; nothing for no limits.

    Args:
        limits: in effect. What is above our own hard limit is the same as that one.
        enforced: the controllers of cgroups that limit it already.

    Raises:
        StartFailed: there are limits, and no prlimit on this machine.
    """
    asked = {
        "nproc": (None if "pids" in enforced else limits.processes, resource.RLIMIT_NPROC),
        "nofile": (limits.open_files, resource.RLIMIT_NOFILE),
        "as": (None if "memory" in enforced else limits.memory_bytes, resource.RLIMIT_AS),
    }
    options = []
    for name, (value, kind) in asked.items():
        if value is not None:
            hard = resource.getrlimit(kind)[1]
            ceiling = value if hard == resource.RLIM_INFINITY else min(value, hard)
            options.append(f"--{name}={ceiling}:{ceiling}")
    if not options:
        return []
    program = shutil.which("prlimit")
    if program is None:
        raise StartFailed("its limits can't be set: the program prlimit (of util-linux) is not on this machine")
    return [program, *options, "--"]
