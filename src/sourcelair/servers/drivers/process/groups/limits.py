"""Limits of a group: what is written where, in both versions."""

from __future__ import annotations

import contextlib
from pathlib import Path

PERIOD = 100_000
"""Microseconds over which the use of processors is counted: the kernel's own default."""


def limit_processes(group: Path, number: int) -> None:
    """Limit processes and threads; the next fork fails (EAGAIN).

    Raises:
        OSError: the kernel does not take it.
    """
    (group / "pids.max").write_text(str(number))


def limit_memory(group: Path, size: int, *, unified: bool) -> None:
    """Limit the memory of all its processes together, in bytes, without swap: beyond it the kernel kills.

    Raises:
        OSError: the kernel does not take it.
    """
    if unified:
        _if_there(group / "memory.swap.max", "0")
        _if_there(group / "memory.oom.group", "1")
        (group / "memory.max").write_text(str(size))
    else:
        (group / "memory.limit_in_bytes").write_text(str(size))
        _if_there(group / "memory.memsw.limit_in_bytes", str(size))  # Never below the limit without swap: so after it.


def limit_cpus(group: Path, cpus: float, *, unified: bool) -> None:
    """Limit the processors that it keeps busy.

    Raises:
        OSError: the kernel does not take it.
    """
    quota = max(1000, round(cpus * PERIOD))  # The kernel takes no less.
    if unified:
        (group / "cpu.max").write_text(f"{quota} {PERIOD}")
    else:
        (group / "cpu.cfs_period_us").write_text(str(PERIOD))
        (group / "cpu.cfs_quota_us").write_text(str(quota))


def killed_for_memory(group: Path, *, unified: bool) -> bool:
    """Return whether the kernel has killed a process of this group because memory was short."""
    file = group / ("memory.events" if unified else "memory.oom_control")
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return False
    return any(name == "oom_kill" and int(count) > 0 for name, _, count in (line.partition(" ") for line in lines))


def _if_there(file: Path, value: str) -> None:
    if file.exists():  # Opening it for writing would make it on anything but a real cgroup.
        with contextlib.suppress(OSError):
            file.write_text(value)
