"""The processes of an installation, for tests that kill or freeze them: every one by its id."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.system.lair import Lair
from tests.system.site import Site
from tests.system.visitors import fetch


def master(lair: Lair) -> int:
    """Return the process id of NGINX's master."""
    return lair.nginx()[0].pid


def workers(lair: Lair) -> list[int]:
    """Return the process ids of NGINX's workers."""
    return [process.pid for process in lair.nginx()[1:]]


async def serving(site: Site, within: float = 20.0) -> None:
    """Wait until NGINX answers again."""
    deadline = time.monotonic() + within
    while True:
        try:
            await fetch(site.address, "nobody.localhost")
            return
        except (OSError, asyncio.IncompleteReadError):
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.02)


async def gone(pids: list[int], within: float = 20.0) -> None:
    """Wait until processes have ended (or are zombies whose parent is slow)."""
    deadline = time.monotonic() + within
    while alive := [pid for pid in pids if _alive(pid)]:
        assert time.monotonic() < deadline, f"{alive} still run"
        await asyncio.sleep(0.02)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@contextmanager
def frozen(pids: list[int]) -> Iterator[None]:
    """Stop processes, and let them go on."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
