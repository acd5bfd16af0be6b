"""Finds instances again: by a handle, by a claim, or by what their processes carry. All of it blocks.

An instance is there as long as anything of it is: where its main process has ended and children are left, it is found
without a pid, so that whoever adopts it sees it end, and clears it away.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from sourcelair.servers.drivers.base import Found, Handle
from sourcelair.servers.drivers.process import members, sockets
from sourcelair.servers.drivers.process.groups import Groups
from sourcelair.servers.drivers.process.identity import Identity, is_running, this_boot
from sourcelair.servers.drivers.process.launcher import Claims

FEW = 64
"""Files of a process that are looked at without a thread for it."""


def leader_of(found: Found) -> Identity:
    """Return the identity of the main process."""
    return _leader(found.handle)


def _leader(handle: Handle) -> Identity:
    return Identity(handle["pid"], handle["start"], handle["boot"])


class Finder:
    """Looks through the claims, the cgroups and the processes of one installation."""

    def __init__(self, installation: str, claims: Claims, groups: Groups) -> None:
        self._installation = installation
        self._claims = claims
        self._groups = groups

    def describe(self, instance: str, leader: Identity, port: int | None, log: Path | None = None) -> Found:
        """Return an instance with the handle by which it is found again."""
        handle: Handle = {
            "instance": instance,
            "installation": self._installation,
            "pid": leader.pid,
            "start": leader.start,
            "boot": leader.boot,
            "port": port,
            "log": str(log) if log else None,
        }
        return Found(instance, handle, leader.pid, leader.started_at)

    def _recorded(self, instance: str, handle: Handle | None) -> tuple[Found | None, bool]:
        """Return what is written of an instance, and whether it can't run any more (or never could)."""
        if handle and (handle.get("installation"), handle.get("instance")) == (self._installation, instance):
            leader = _leader(handle)
            return Found(instance, handle, leader.pid, leader.started_at), leader.boot != this_boot()
        claim = self._claims.read(instance)
        if claim is None or claim.identity is None:
            return None, claim is not None and claim.void
        return self.describe(instance, claim.identity, claim.port), claim.identity.boot != this_boot()

    def look(
        self, instance: str, handle: Handle | None, running: Sequence[members.Process] | None = None
    ) -> Found | None:
        """Return an instance of which anything runs, or None.

        Args:
            instance: its id.
            handle: from its record; None looks for the claim.
            running: a scan that was just made.
        """
        found, over = self._recorded(instance, handle)
        if over:
            return None
        leader = leader_of(found) if found is not None else None
        if found is not None and leader is not None and is_running(leader):
            return self._as_it_is(found, leader.pid)
        running = members.scan(self._installation) if running is None else running
        rest = members.belonging(running, instance, leader, self._groups.pids(instance))
        if not rest:
            return None
        if found is None:
            # A launcher that has not written its claim to the end leads a session, and carries the id.
            first = next((process for process in rest if process.stat.session == process.stat.pid), None)
            if first is not None:
                return self._as_it_is(self.describe(instance, first.identity, None), first.stat.pid)
            oldest = min(process.stat.start for process in rest)
            found = self.describe(instance, Identity(0, oldest, this_boot()), None)
        return self._as_it_is(dataclasses.replace(found, pid=None), rest[0].stat.pid)

    def _as_it_is(self, found: Found, pid: int) -> Found:
        """Return an instance with whether it is paused; its groups are found by one of its processes."""
        self._groups.locate(found.instance, pid)
        return dataclasses.replace(found, paused=self._groups.is_frozen(found.instance))

    def look_for_all(self) -> list[Found]:
        """Return every instance of this installation of which anything runs."""
        running = members.scan(self._installation)
        sessions = {process.stat.session for process in running}
        names = {process.instance for process in running if process.instance is not None}
        names.update(name for name in self._groups.instances() if self._groups.pids(name))
        for name in self._claims.instances():
            claim = self._claims.read(name)
            if claim is not None and claim.identity is not None and claim.identity.pid in sessions:
                names.add(name)
        found = (self.look(name, None, running) for name in sorted(names))
        return [instance for instance in found if instance is not None]

    def belonging(self, found: Found) -> list[members.Process]:
        """Return all processes of an instance."""
        grouped = self._groups.pids(found.instance)
        return members.belonging(members.scan(self._installation), found.instance, leader_of(found), grouped)

    def leaders_sockets(self, found: Found, wanted: set[int]) -> set[int]:
        """Return which of these sockets (by inode) the main process has among its first few files. Hardly blocks."""
        leader = leader_of(found)
        return wanted.intersection(sockets.inodes(leader.pid, FEW)) if is_running(leader) else set()

    def own_sockets(self, found: Found, wanted: set[int]) -> set[int]:
        """Return which of these sockets (by inode) the instance has open; the cheapest places are looked at first."""
        leader = leader_of(found)
        places: tuple[Callable[[], list[int]], ...] = (
            lambda: [leader.pid] if is_running(leader) else [],
            lambda: self._groups.pids(found.instance),
            lambda: [process.stat.pid for process in self.belonging(found)],
        )
        own: set[int] = set()
        seen: set[int] = set()
        for pids in places:
            for pid in set(pids()) - seen:
                seen.add(pid)
                own.update(wanted.intersection(sockets.inodes(pid)))
            if own == wanted:
                break
        return own
