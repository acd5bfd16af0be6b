"""What a number was measured on: the machine, the versions, its disk, and how busy it was."""

from __future__ import annotations

import os
import platform
import subprocess
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

SYNCS = 300
"""Writes that are synced to learn what the disk takes."""


def percentile(values: Iterable[float], part: float) -> float:
    """Return the smallest value that is not below this part (0 to 1) of all."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))]


def syncs(directory: Path) -> list[float]:
    """Return how long fsync took there after each of some small writes, in milliseconds."""
    taken = []
    with tempfile.TemporaryFile(dir=directory, buffering=0) as file:
        for _ in range(SYNCS):
            file.write(b"x" * 4096)
            began = time.perf_counter()
            os.fsync(file.fileno())
            taken.append((time.perf_counter() - began) * 1000)
    return taken


def described() -> list[str]:
    """Return lines on the machine and the versions."""
    processor = next(
        (
            line.partition(":")[2].strip()
            for line in _read("/proc/cpuinfo").splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    memory = int(_read("/proc/meminfo").split()[1]) >> 20
    nginx = subprocess.run(["nginx", "-v"], capture_output=True, text=True, check=True).stderr.strip()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout
    return [
        f"{os.cpu_count()} x {processor}, {memory} GiB, {platform.system()} {platform.release()}",
        f"{nginx.removeprefix('nginx version: ')}, Python {platform.python_version()}, commit {commit.strip() or '?'}",
    ]


def load() -> float:
    """Return how many processes wanted to run, on average of the last minute."""
    return os.getloadavg()[0]


def _read(path: str) -> str:
    return Path(path).read_text()
