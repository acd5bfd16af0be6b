"""What processes have used: processor time of all their threads, and memory, both as the kernel counts them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path

import psutil


def family(pid: int) -> list[int]:
    """Return a process and all that come from it."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
    return []


def cpu_seconds(pids: Iterable[int]) -> float:
    """Return the processor time of processes so far, in seconds: of user and system, of all threads that still run.

    From /proc/PID/task/TID/schedstat, in nanoseconds: /proc/PID/stat counts in steps of 10 ms.
    """
    spent = 0
    for pid in pids:
        for task in Path("/proc", str(pid), "task").glob("*/schedstat"):
            with contextlib.suppress(OSError):
                spent += int(task.read_text().split()[0])
    return spent / 1e9


def memory_bytes(pids: Iterable[int]) -> int:
    """Return the memory of processes; what some of them share is counted once, in parts (PSS)."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            lines = Path("/proc", str(pid), "smaps_rollup").read_text().splitlines()
            total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) << 10
    return total
