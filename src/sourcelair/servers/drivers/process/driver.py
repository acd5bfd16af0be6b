"""The process driver: instances are processes of this machine, which outlive the control plane.

An instance is its main process and all that this one forks. When the main process ends, what it left is killed: else
it would keep the port. Without root (and wherever they run as the same user) the servers of this driver share one
trust domain with each other and with the control plane.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

from sourcelair.client.servers import Spec
from sourcelair.servers.drivers.base import (
    Capability,
    ExitStatus,
    First,
    Found,
    Handle,
    Listener,
    PauseFailed,
    StartFailed,
    StartOrder,
    nothing,
)
from sourcelair.servers.drivers.process import abilities, commands, exits, logs, members, sockets
from sourcelair.servers.drivers.process.finding import Finder, leader_of
from sourcelair.servers.drivers.process.groups import Groups, find_hierarchies
from sourcelair.servers.drivers.process.identity import Identity, is_running, open_process, send
from sourcelair.servers.drivers.process.launcher import Claims, Word
from sourcelair.servers.drivers.process.pausing import Pauses
from sourcelair.servers.drivers.process.starting import Starter
from sourcelair.telemetry import get_logger

_log = get_logger(__name__)

T = TypeVar("T")

PAUSES = (0.02, 0.1, 0.5, 2.0)
"""Seconds between tries to remove the cgroups of what has ended: the kernel sends no event when it lets them go."""

THREADS = 8
"""Threads for what may block longer than a millisecond: spawning, and looking through /proc."""

LOOK_AGAIN = 0.5
"""Seconds after which what is being stopped is listed again, though not all that was known has ended."""

FOREIGN = 0.05
"""Seconds for which a socket that was seen to be another's is not looked up again."""


class ProcessDriver:
    """Runs instances as processes.

    Args:
        directory: where claims are kept (mode 0700); it belongs to one installation.
        installation: the installation's id, which every process carries.
        groups: the cgroups of this installation; by default they are made where the machine allows it. Where it does
            not allow freezing, this driver can't pause.
    """

    name = "process"

    def __init__(self, directory: Path, installation: str, *, groups: Groups | None = None) -> None:
        self.installation = installation
        self._claims = Claims(directory / "claims")
        self._groups = groups if groups is not None else Groups(installation, find_hierarchies())
        self._finder = Finder(installation, self._claims, self._groups)
        self._starter = Starter(installation, self._claims, self._groups, self._finder)
        self._pauses = Pauses(self._groups, self._finder)
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="lair-process")
        self._reaper = exits.Reaper()
        self._table = sockets.Table()
        self._foreign: dict[tuple[str, int], float] = {}
        self._stopping: set[str] = set()
        self._closed = False
        self._claims.sweep()
        self._groups.sweep()

    @property
    def capabilities(self) -> frozenset[Capability]:
        """It can pause where its instances have cgroups that freeze."""
        return frozenset({"pause"}) if "freezer" in self._groups.abilities else frozenset()

    @property
    def abilities(self) -> frozenset[str]:
        """What the cgroups here can; `abilities.describe` says it in sentences."""
        return self._groups.abilities

    async def close(self) -> None:
        """Free files and threads. Instances go on running."""
        self._closed = True
        self._reaper.close()
        self._threads.shutdown(wait=False)
        self._pauses.close()
        self._groups.close()
        self._table.close()

    def check(self, spec: Spec) -> None:
        """Refuse a spec that can never run.

        Raises:
            InvalidInput: with what to change.
        """
        commands.check_command(spec)
        abilities.check_abilities(spec, self._groups.abilities)

    async def start(self, order: StartOrder, first: First = nothing) -> Found:
        """Start the command, and return as soon as the launcher becomes it: some 3 ms, with limits some 5 ms more.

        The launcher is started meanwhile, and waits for the word that `first` is done; if this process ends, it ends.

        Raises:
            StartFailed: its directory or its program is missing, its limits can't be enforced, or the claim can't be
                written.
            StartVoided: the instance was voided, or started, before.
        """
        try:
            word = Word()
        except OSError as error:  # too many files are open
            await first(lambda: None)
            raise StartFailed(f"it can't be started: {error.strerror}") from error
        started = self._call(self._starter.start, order, word)
        started.add_done_callback(self._launched)  # Also where this call was cancelled: it runs all the same.
        try:
            with word:
                await first(word.give)
        except BaseException:
            # Without the word it ends at once; with it its record is stored, and whoever looks next adopts it.
            await asyncio.wait([started])
            raise
        _, found = await asyncio.shield(started)
        return found

    def _launched(self, started: asyncio.Future[tuple[subprocess.Popen[bytes], Found]]) -> None:
        if started.cancelled() or started.exception() is not None or self._closed:
            return
        child, found = started.result()
        identity = leader_of(found)
        self._reaper.watch(child, identity)
        self._call(self._groups.join, found.instance, identity.pid, identity.start)

    async def void(self, instance: str) -> bool:
        """Claim the id, so that no start of it runs anything.

        Returns:
            True if it is void now; False if a launcher had claimed it before.
        """
        return await self._call(self._claims.void, instance)

    async def inspect(self, instance: str, handle: Handle | None) -> Found | None:
        """Return the instance if anything of it runs; `pid` is null where only children of its main process do."""
        return await self._call(self._finder.look, instance, handle)

    async def find_all(self) -> list[Found]:
        """Return every instance of this installation of which anything runs, also those that no record names."""
        return await self._call(self._finder.look_for_all)

    async def listener(self, found: Found, port: int) -> Listener | None:
        """Return where the instance listens on `port`, proven by the sockets that its processes have open."""
        rows = self._table.rows_of(port)
        now = asyncio.get_running_loop().time()
        if all(self._foreign.get((found.instance, row.inode), 0) > now for row in rows):
            return None
        wanted = {row.inode for row in rows}
        own = self._finder.leaders_sockets(found, wanted)
        if own != wanted:
            own = await self._call(self._finder.own_sockets, found, wanted)
        self._foreign = {key: until for key, until in self._foreign.items() if until > now}
        self._foreign.update({(found.instance, row.inode): now + FOREIGN for row in rows if row.inode not in own})
        chosen = sockets.dial(rows, own)
        local = all(row.local for row in rows if row.inode in own)
        return Listener(chosen[0], port, chosen[1].backlog, local) if chosen else None

    async def listening_elsewhere(self, found: Found) -> list[int]:
        """Return the other ports on which the instance listens."""
        rows = self._table.rows()
        own = await self._call(self._finder.own_sockets, found, {row.inode for row in rows})
        return sorted({row.port for row in rows if row.inode in own} - {found.handle.get("port")})

    async def wait_exit(self, found: Found) -> ExitStatus:
        """Return once the main process is gone, and (unless it is being stopped) what it left was killed.

        The code or the signal is known only while the control plane that started it lives.
        """
        leader = leader_of(found)
        pidfd = open_process(leader)
        if pidfd is not None:
            try:
                await exits.until_ended([pidfd])
            finally:
                os.close(pidfd)
        if found.instance not in self._stopping:
            await self._end(found, 0)
        else:
            await self._call(self._look_for_cause, found)
        return exits.status_of(leader)

    async def stop(self, found: Found, grace: float) -> ExitStatus:
        """Send SIGTERM to all its processes, after `grace` seconds SIGKILL; return when nothing of it is left.

        What is paused is thawed when it has its signal: it does nothing else first.
        """
        self._stopping.add(found.instance)
        try:
            await self._end(found, grace)
        finally:
            self._stopping.discard(found.instance)
        return exits.status_of(leader_of(found))

    async def _end(self, found: Found, grace: float) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + grace
        asked: set[Identity] = set()
        while True:
            async with self._holding(found) as held:
                if not held:
                    break
                remaining = deadline - loop.time()
                if remaining <= 0:
                    await self._call(self._groups.kill, found.instance)
                for member in held:
                    if remaining <= 0:
                        send(member.pidfd, signal.SIGKILL)
                    elif member.identity not in asked:
                        send(member.pidfd, signal.SIGTERM)
                        send(member.pidfd, signal.SIGCONT)  # One that was stopped by a signal takes no other.
                # A group of v1 that is frozen takes no signal at all, and with v2 only SIGKILL.
                await self._pauses.resume(found.instance)
                wait = min(remaining, LOOK_AGAIN) if remaining > 0 else LOOK_AGAIN
                asked.update(member.identity for member in held)
                await exits.until_ended([member.pidfd for member in held], wait)
        await self._call(self._clear, found)

    def _look_for_cause(self, found: Found) -> None:
        if self._groups.killed_for_memory(found.instance):
            exits.ran_short_of_memory(leader_of(found))

    def _clear(self, found: Found) -> None:
        self._look_for_cause(found)
        self._groups.remove(found.instance)
        if found.handle.get("log"):
            logs.release(Path(found.handle["log"]))

    async def pause(self, found: Found) -> None:
        """Freeze its cgroup, and whatever of it is not in there yet.

        Raises:
            PauseFailed: not within a second, or it has ended, or no cgroup of this machine can freeze.
        """
        if "pause" not in self.capabilities:
            raise PauseFailed("it can't be paused: no cgroup of this machine can freeze it")
        await self._pauses.pause(found)

    async def resume(self, found: Found) -> None:
        """Thaw its cgroup: some 0.2 ms."""
        await self._pauses.resume(found.instance)

    @asynccontextmanager
    async def _holding(self, found: Found) -> AsyncIterator[list[members.Member]]:
        """Give all processes of an instance, held by pidfds."""
        holding = self._call(lambda: members.hold(self._finder.belonging(found)))
        try:
            yield await asyncio.shield(holding)
        finally:
            holding.add_done_callback(_close_all)

    def logs(
        self, log: Path, *, lines: int, follow: bool, until: asyncio.Event | None = None, begin: int | None = None
    ) -> AsyncGenerator[bytes, None]:
        """Give the last lines of a log, and with `follow` all that comes, over its rotations, until it ends."""
        return logs.read_log(log, lines=lines, follow=follow, until=until, begin=begin)

    async def forget(self, instance: str) -> None:
        """Remove the claim and the cgroups of an instance that has ended. A void claim stays until a reboot."""
        self._pauses.forget(instance)
        for pause in PAUSES:
            if await self._call(self._forget, instance):
                return
            await asyncio.sleep(pause)
        _log.warning("cgroup_left", instance=instance)

    def _forget(self, instance: str) -> bool:
        """Return whether there is nothing more to do."""
        claim = self._claims.read(instance)
        if claim is not None and claim.identity is not None:
            if is_running(claim.identity):
                return True
            exits.forget(claim.identity)
        self._claims.remove(instance)
        return self._groups.remove(instance)

    def _call(self, action: Callable[..., T], *args: object) -> asyncio.Future[T]:
        """Do something that blocks in a thread of the driver's own."""
        return asyncio.get_running_loop().run_in_executor(self._threads, action, *args)


def _close_all(holding: asyncio.Future[list[members.Member]]) -> None:
    if not holding.cancelled() and holding.exception() is None:
        for member in holding.result():
            os.close(member.pidfd)
