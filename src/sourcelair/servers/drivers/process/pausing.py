"""Pausing and resuming instances by freezing their cgroups.

Freezing and thawing have threads of their own, so that a resume never waits behind pauses, starts or scans. What is
wanted is noted on the event loop before anything blocks, and looked at under a lock right before a group is frozen: so
a pause that was overtaken by a resume or a stop, even one that nobody waits for any more, freezes nothing after it.
"""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Lock

from sourcelair.servers.drivers.base import Found, PauseFailed
from sourcelair.servers.drivers.process.finding import Finder
from sourcelair.servers.drivers.process.groups import Groups

PATIENCE = 1.0
"""Seconds that a pause may take: a process that waits for a disk can't be frozen until the disk answers."""

OVERTAKEN = "it can't be paused: it was resumed or stopped meanwhile"

THREADS = 2
"""For each of pausing and resuming."""


class Pauses:
    """Pauses the instances of one installation.

    Args:
        groups: of the installation.
        finder: tells which processes belong to an instance.
    """

    def __init__(self, groups: Groups, finder: Finder) -> None:
        self._groups = groups
        self._finder = finder
        self._wanted: set[str] = set()
        self._writing = Lock()
        self._pausing = ThreadPoolExecutor(THREADS, thread_name_prefix="lair-pause")
        self._resuming = ThreadPoolExecutor(THREADS, thread_name_prefix="lair-resume")

    def close(self) -> None:
        """Free the threads. What is paused stays so."""
        self._pausing.shutdown(wait=False)
        self._resuming.shutdown(wait=False)

    async def pause(self, found: Found) -> None:
        """Freeze an instance.

        Raises:
            PauseFailed: it runs on.
        """
        self._wanted.add(found.instance)
        try:
            await asyncio.get_running_loop().run_in_executor(self._pausing, self._pause, found)
        except PauseFailed:
            self._wanted.discard(found.instance)
            raise

    async def resume(self, instance: str) -> None:
        """Thaw an instance, and let a pause that is under way come to nothing. One that runs or is gone is no error."""
        self._wanted.discard(instance)
        await asyncio.get_running_loop().run_in_executor(self._resuming, self._thaw, instance)

    def forget(self, instance: str) -> None:
        """Drop what is kept of an instance that has ended."""
        self._wanted.discard(instance)

    def _thaw(self, instance: str) -> None:
        with self._writing:
            self._groups.thaw(instance)

    def _pause(self, found: Found) -> None:
        try:
            done = self._freeze(found, time.monotonic() + PATIENCE)
        except OSError as error:
            self._thaw(found.instance)
            raise PauseFailed(f"it can't be paused: {error.strerror or error}") from error
        if found.instance not in self._wanted:
            raise PauseFailed(OVERTAKEN)
        if not done:
            self._thaw(found.instance)
            raise PauseFailed(f"it can't be paused: not all of it could be frozen within {PATIENCE:g} s")

    def _freeze(self, found: Found, deadline: float) -> bool:
        """Freeze all that belongs to an instance; returns whether all of it stands still.

        Raises:
            PauseFailed: nothing of it runs.
            OSError: it can't be done.
        """
        instance = found.instance
        if not self._finder.belonging(found):
            raise PauseFailed("it can't be paused: it has ended")
        with self._writing:
            if instance not in self._wanted:
                raise PauseFailed(OVERTAKEN)
            self._groups.freeze(instance)
        while self._groups.wait_frozen(instance, deadline):
            # What has not moved into the group yet (or left it) runs, and forks: look again until there is none.
            inside = set(self._groups.pids_in_freezer(instance))
            outside = [each.stat.pid for each in self._finder.belonging(found) if each.stat.pid not in inside]
            if not outside:
                return True
            for pid in outside:
                try:
                    self._groups.move_into_freezer(instance, pid)
                except ProcessLookupError:
                    continue
            if time.monotonic() > deadline or instance not in self._wanted:
                return False
        return False
