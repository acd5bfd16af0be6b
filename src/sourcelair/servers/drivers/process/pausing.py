"""Pausing and resuming instances by freezing their cgroups.

Freezing and thawing have threads of their own, so that a resume never waits behind pauses, starts or scans. What is
wanted is noted on the event loop before anything blocks: a pause that was overtaken by a resume or a stop, even one
that nobody waits for any more, sees that after it has frozen, and thaws again.
"""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

from sourcelair.servers.drivers.base import Found, PauseFailed
from sourcelair.servers.drivers.process.finding import Finder
from sourcelair.servers.drivers.process.groups import Groups

PATIENCE = 1.0
"""Seconds that a pause may take: a process that waits for a disk can't be frozen until the disk answers."""

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

    def overtake(self, instance: str) -> None:
        """Let a pause that is under way come to nothing. Call it on the event loop, before the instance is thawed."""
        self._wanted.discard(instance)

    async def resume(self, instance: str) -> None:
        """Thaw an instance; one that runs or is gone is no error."""
        self.overtake(instance)
        await asyncio.get_running_loop().run_in_executor(self._resuming, self._groups.thaw, instance)

    def _pause(self, found: Found) -> None:
        try:
            done = self._freeze(found, time.monotonic() + PATIENCE)
        except OSError as error:
            self._groups.thaw(found.instance)
            raise PauseFailed(f"it can't be paused: {error.strerror or error}") from error
        if not done or found.instance not in self._wanted:
            self._groups.thaw(found.instance)
            why = f"not all of it could be frozen within {PATIENCE:g} s" if not done else "it was resumed or stopped"
            raise PauseFailed(f"it can't be paused: {why}")

    def _freeze(self, found: Found, deadline: float) -> bool:
        """Freeze all that belongs to an instance; returns whether all of it stands still.

        Raises:
            PauseFailed: nothing of it runs.
            OSError: it can't be done.
        """
        instance = found.instance
        if not self._finder.belonging(found):
            raise PauseFailed("it can't be paused: it has ended")
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
