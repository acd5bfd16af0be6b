"""How processes end: waited for by pidfd, so that it works for any process, and reaped where it is our child.

`subprocess` reaps by pid, and only what it started itself; no other child watcher of the program touches these.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Sequence

from sourcelair.servers.drivers.base import ExitStatus
from sourcelair.servers.drivers.process.identity import Identity

_short_of_memory: set[Identity] = set()
"""Main processes of instances that the kernel killed something of because memory was short, until forgotten."""

_children: dict[Identity, subprocess.Popen[bytes]] = {}
"""Children belong to the program, not to one driver object. Kept until they are forgotten, to tell how they ended."""


def status_of(identity: Identity) -> ExitStatus:
    """Return how a process ended; all unknown where it was not our child, or still runs. Reaps it."""
    child = _children.get(identity)
    code = child.poll() if child is not None else None
    # One that lost a child for that and ended well, or when it was asked to, did not end of it.
    short = identity in _short_of_memory and code not in {0, -signal.SIGTERM}
    if code is None:
        return ExitStatus(out_of_memory=short)
    if code < 0:
        return ExitStatus(signal=-code, out_of_memory=short)
    return ExitStatus(code=code, out_of_memory=short)


def ran_short_of_memory(identity: Identity) -> None:
    """Note that the kernel killed something of the instance with this main process because memory was short."""
    _short_of_memory.add(identity)


def forget(identity: Identity) -> None:
    """Drop what is known of a child that has ended."""
    _short_of_memory.discard(identity)
    child = _children.get(identity)
    if child is not None and child.poll() is not None:
        del _children[identity]


async def until_ended(pidfds: Sequence[int], timeout: float | None = None) -> None:
    """Return once all these processes have ended, or after `timeout` seconds."""
    loop = asyncio.get_running_loop()
    waiting = {pidfd: loop.create_future() for pidfd in pidfds}

    def ended(pidfd: int) -> None:
        loop.remove_reader(pidfd)
        if not waiting[pidfd].done():
            waiting[pidfd].set_result(None)

    for pidfd in waiting:
        loop.add_reader(pidfd, ended, pidfd)
    try:
        if waiting:
            await asyncio.wait(waiting.values(), timeout=timeout)
    finally:
        for pidfd in waiting:
            loop.remove_reader(pidfd)


class Reaper:
    """Reaps children as soon as they end, so that none stays a zombie, whether or not anybody waits for it."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._watched: set[int] = set()

    def watch(self, child: subprocess.Popen[bytes], identity: Identity) -> None:
        """Take a child that was just started. Call it on the event loop."""
        _children[identity] = child
        self._loop = asyncio.get_running_loop()
        pidfd = os.pidfd_open(child.pid)
        self._watched.add(pidfd)
        self._loop.add_reader(pidfd, self._ended, pidfd, child)

    def _ended(self, pidfd: int, child: subprocess.Popen[bytes]) -> None:
        self._release(pidfd)
        child.poll()

    def _release(self, pidfd: int) -> None:
        assert self._loop is not None  # noqa: S101 - nothing is watched before there is a loop
        self._loop.remove_reader(pidfd)
        self._watched.discard(pidfd)
        os.close(pidfd)

    def close(self) -> None:
        """Watch no more. What still runs goes on."""
        for pidfd in list(self._watched):
            self._release(pidfd)
