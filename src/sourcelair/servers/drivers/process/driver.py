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
    Found,
    Handle,
    Listener,
    StartFailed,
    StartOrder,
    StartVoided,
)
from sourcelair.servers.drivers.process import commands, exits, limits, logs, members, sockets
from sourcelair.servers.drivers.process.finding import Finder, leader_of
from sourcelair.servers.drivers.process.groups import Groups, find_parent
from sourcelair.servers.drivers.process.identity import Identity, is_running, open_process, send, this_boot
from sourcelair.servers.drivers.process.launcher import Claims, launch
from sourcelair.telemetry import get_logger

log = get_logger(__name__)

T = TypeVar("T")

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
        groups: the cgroups of this installation; by default they are made where the machine allows it.
    """

    name = "process"
    capabilities: frozenset[Capability] = frozenset()

    def __init__(self, directory: Path, installation: str, *, groups: Groups | None = None) -> None:
        self.installation = installation
        self._claims = Claims(directory / "claims")
        self._groups = groups if groups is not None else Groups(installation, find_parent())
        self._finder = Finder(installation, self._claims, self._groups)
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="lair-process")
        self._reaper = exits.Reaper()
        self._table = sockets.Table()
        self._foreign: dict[tuple[str, int], float] = {}
        self._stopping: set[str] = set()
        self._closed = False
        self._claims.sweep()

    @property
    def isolation(self) -> str:
        """How the processes of an instance are found, for `lair doctor`: one sentence."""
        if self._groups.available:
            return "every instance has a cgroup of its own"
        return (
            "no cgroup can be made here: instances are known by session and environment, so a child that leaves both "
            "is not found, and a limit of processes counts all of the user's"
        )

    async def close(self) -> None:
        """Free files and threads. Instances go on running."""
        self._closed = True
        self._reaper.close()
        self._threads.shutdown(wait=False)
        self._groups.close()

    def check(self, spec: Spec) -> None:
        """Refuse a spec that can never run.

        Raises:
            InvalidInput: with what to change.
        """
        commands.check_command(spec)

    async def start(self, order: StartOrder) -> Found:
        """Start the command, and return as soon as the launcher becomes it: some 3 ms.

        Raises:
            StartFailed: its directory or its program is missing, or the claim can't be written.
            StartVoided: the instance was voided, or started, before.
        """
        started = self._call(self._launch, order)
        started.add_done_callback(self._launched)  # Also where this call was cancelled: it runs all the same.
        _, found = await asyncio.shield(started)
        return found

    def _launch(self, order: StartOrder) -> tuple[subprocess.Popen[bytes], Found]:
        try:
            return self._launch_or_raise(order)
        except OSError as error:
            raise StartFailed(f"it can't be started: {error.strerror or error}") from error

    def _launch_or_raise(self, order: StartOrder) -> tuple[subprocess.Popen[bytes], Found]:
        directory = commands.check_directory(order.spec.directory)
        env = {**order.env, members.INSTANCE: order.instance, members.INSTALLATION: self.installation}
        command = commands.with_port(order.spec.command, order.port)
        command[0] = commands.find_program(command[0], directory, env)
        output, unlogged = logs.open_log(order.log)
        if unlogged:
            log.warning("instance without a log", instance=order.instance, error=unlogged)
        start = None
        try:
            group, limited = self._groups.make(order.instance, order.spec.limits.processes)
            child, start = launch(
                self._claims,
                order.instance,
                [*limits.prefix(order.spec.limits, processes_grouped=limited), *command],
                env=env,
                cwd=directory,
                log=output,
                port=order.port,
                group=group if limited else None,
            )
        finally:
            os.close(output)
            if start is None:
                self._groups.remove(order.instance)
        if start is None:
            raise self._claim_lost(order.instance)
        identity = Identity(child.pid, start, this_boot())
        return child, self._finder.describe(order.instance, identity, order.port, order.log)

    def _claim_lost(self, instance: str) -> Exception:
        claim = self._claims.read(instance)
        if claim is not None and (claim.void or claim.identity is not None):
            return StartVoided(f"{instance} was claimed before")
        return StartFailed("it can't be started: its claim can't be written (is the disk full?)")

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
        rows = [row for row in self._table.rows() if row.port == port]
        now = asyncio.get_running_loop().time()
        if all(self._foreign.get((found.instance, row.inode), 0) > now for row in rows):
            return None
        own = await self._call(self._finder.own_sockets, found, {row.inode for row in rows})
        self._foreign = {key: until for key, until in self._foreign.items() if until > now}
        self._foreign.update({(found.instance, row.inode): now + FOREIGN for row in rows if row.inode not in own})
        chosen = sockets.dial(rows, own)
        return Listener(chosen[0], port, chosen[1].backlog) if chosen else None

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
        return exits.status_of(leader)

    async def stop(self, found: Found, grace: float) -> ExitStatus:
        """Send SIGTERM to all its processes, after `grace` seconds SIGKILL; return when nothing of it is left."""
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
                        send(member.pidfd, signal.SIGCONT)  # One that is frozen takes no other signal.
                wait = min(remaining, LOOK_AGAIN) if remaining > 0 else LOOK_AGAIN
                asked.update(member.identity for member in held)
                await exits.until_ended([member.pidfd for member in held], wait)
        await self._call(self._clear, found)

    def _clear(self, found: Found) -> None:
        self._groups.remove(found.instance)
        if found.handle.get("log"):
            logs.release(Path(found.handle["log"]))

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
        """Remove the claim and the cgroup of an instance that has ended. A void claim stays until a reboot."""
        await self._call(self._forget, instance)

    def _forget(self, instance: str) -> None:
        claim = self._claims.read(instance)
        if claim is not None and claim.identity is not None:
            if is_running(claim.identity):
                return
            exits.forget(claim.identity)
        self._claims.remove(instance)
        self._groups.remove(instance)

    def _call(self, action: Callable[..., T], *args: object) -> asyncio.Future[T]:
        """Do something that blocks in a thread of the driver's own."""
        return asyncio.get_running_loop().run_in_executor(self._threads, action, *args)


def _close_all(holding: asyncio.Future[list[members.Member]]) -> None:
    if not holding.cancelled() and holding.exception() is None:
        for member in holding.result():
            os.close(member.pidfd)
