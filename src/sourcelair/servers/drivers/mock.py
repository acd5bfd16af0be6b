"""A driver that runs nothing and does what it is told: for tests of everything above drivers.

It keeps the same promises as a real one (the conformance suite runs against it), on instances that live in a
`MockWorld`. A second driver object on the same world is what a restarted control plane sees::

    driver = MockDriver()
    driver.script("demo", "blog", Script(listen_after=0.01, serves=True))
    gate = driver.block("stop")
    ...
    await gate.reached.wait()
    gate.release()
    assert driver.count("start") == 1
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sourcelair.client.policy import seconds
from sourcelair.client.servers import Spec
from sourcelair.errors import InvalidInput
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
    StartVoided,
    nothing,
)
from sourcelair.servers.drivers.mock_world import MockInstance, MockWorld, Script
from sourcelair.servers.drivers.process.logs import open_log, read_log

__all__ = ["Call", "Gate", "MockDriver", "MockWorld", "Point", "Script"]

Point = Literal[
    "start",
    "claimed",
    "started",
    "void",
    "inspect",
    "find_all",
    "listener",
    "wait_exit",
    "stop",
    "forget",
    "pause",
    "resume",
]
"""Where a call can be blocked. A start: before it claims, when it has claimed, when it runs and has not said so."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call of the driver, `instance` empty for those without."""

    action: str
    instance: str


class Gate:
    """A point at which every call waits until it is released. `reached` is set when the first one is there."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self._open = asyncio.Event()

    async def wait(self) -> None:
        """Wait there."""
        self.reached.set()
        await self._open.wait()

    def release(self) -> None:
        """Let all go on, and those to come."""
        self._open.set()


class MockDriver:
    """Does what it is told, and records every call in `calls`.

    Args:
        world: where its instances run; a new one by default.
        installation: whose instances it sees.
        name: the driver's name.
        capabilities: what it says that it can, and can.
    """

    def __init__(
        self,
        world: MockWorld | None = None,
        installation: str = "mock",
        *,
        name: str = "mock",
        capabilities: frozenset[Capability] = frozenset({"pause"}),
    ) -> None:
        self.name = name
        self.capabilities = capabilities
        self.world = world or MockWorld()
        self.installation = installation
        self.calls: list[Call] = []
        self.default = Script()
        self._scripts: dict[tuple[str, str], list[Script]] = {}
        self._gates: dict[str, Gate] = {}

    def script(self, owner: str, project: str, *scripts: Script) -> None:
        """Say what the next starts of a server do, one after the other; the last counts for all that follow."""
        self._scripts[owner, project] = list(scripts)

    def block(self, point: Point) -> Gate:
        """Let every call wait at a point from now on, until the gate is released."""
        self._gates[point] = Gate()
        return self._gates[point]

    def count(self, action: str, instance: str | None = None) -> int:
        """Return how often something was called."""
        return sum(call.action == action and instance in {None, call.instance} for call in self.calls)

    def end(self, instance: str, status: ExitStatus | None = None) -> None:
        """Let an instance end by itself, as in a crash (by default: SIGKILL)."""
        self._instance(instance).end(status or ExitStatus(signal=9))

    async def listen(self, instance: str, port: int | None = None) -> None:
        """Let an instance listen now, on the port that it was given or another."""
        running = self._instance(instance)
        await running.listen(port or running.order.port)

    def deafen(self, instance: str) -> None:
        """Let an instance stop listening, as a development server does while it reloads; it goes on running."""
        running = self._instance(instance)
        running.listener = None
        if running.site is not None:
            running.site.close()

    def _instance(self, instance: str) -> MockInstance:
        return self.world.instances[self.installation, instance]

    def _running(self, instance: str) -> MockInstance | None:
        running = self.world.instances.get((self.installation, instance))
        return running if running is not None and not running.ended.is_set() else None

    async def _pass(self, point: str) -> None:
        gate = self._gates.get(point)
        if gate is not None:
            await gate.wait()

    async def _enter(self, action: Point, instance: str = "") -> None:
        self.calls.append(Call(action, instance))
        await self._pass(action)

    def _next(self, order: StartOrder) -> Script:
        scripts = self._scripts.get((order.owner, order.project), [])
        if len(scripts) > 1:
            return scripts.pop(0)
        return scripts[0] if scripts else self.default

    def check(self, spec: Spec) -> None:
        """Refuse what the default script refuses, and to doze where this driver was made without `pause`."""
        if self.default.refuse:
            raise InvalidInput(self.default.refuse)
        if seconds(spec.sleep.doze_after) is not None and "pause" not in self.capabilities:
            raise InvalidInput("spec.sleep.doze_after: this driver can't pause; leave it out")

    async def start(self, order: StartOrder, first: First = nothing) -> Found:
        """Start what the script says. As with a real one, a start goes on when the call is cancelled."""
        await first(lambda: None)
        self.calls.append(Call("start", order.instance))
        start = asyncio.get_running_loop().create_task(self._start(order, self._next(order)))
        self.world.starts.add(start)
        start.add_done_callback(self._started)
        return await asyncio.shield(start)

    def _started(self, start: asyncio.Task[Found]) -> None:
        self.world.starts.discard(start)
        if not start.cancelled():
            start.exception()  # Seen, also where nobody waits for it any more.

    async def _start(self, order: StartOrder, script: Script) -> Found:
        await asyncio.sleep(script.start_delay)
        await self._pass("start")
        if script.fail is not None:
            raise StartFailed(script.fail)
        key = self.installation, order.instance
        if key in self.world.claims:
            raise StartVoided(f"{order.instance} was claimed before")
        self.world.claims[key] = "started"
        await self._pass("claimed")
        self.world.last_pid += 1
        running = MockInstance(order, script, self.installation, self.world.last_pid)
        if script.output:
            log, _ = open_log(order.log)
            os.write(log, script.output)
            os.close(log)
        self.world.instances[key] = running
        running.spawn()
        await self._pass("started")
        return self._found(running)

    def _found(self, running: MockInstance) -> Found:
        handle: Handle = {"installation": running.installation, "pid": running.pid}
        paused = not running.running.is_set()
        return Found(running.order.instance, handle, running.pid, running.started_at, paused)

    async def void(self, instance: str) -> bool:
        """Claim the id for nobody."""
        await self._enter("void", instance)
        return self.world.claims.setdefault((self.installation, instance), "void") == "void"

    async def inspect(self, instance: str, handle: Handle | None) -> Found | None:
        """Return the instance if it runs, and is the one of the handle."""
        await self._enter("inspect", instance)
        running = self._running(instance)
        if running is None or (handle is not None and handle.get("pid") != running.pid):
            return None
        return self._found(running)

    async def find_all(self) -> list[Found]:
        """Return all that run."""
        await self._enter("find_all")
        mine = [name for installation, name in self.world.instances if installation == self.installation]
        return [self._found(running) for name in mine if (running := self._running(name)) is not None]

    async def listener(self, found: Found, port: int) -> Listener | None:
        """Return where it listens."""
        await self._enter("listener", found.instance)
        running = self._running(found.instance)
        listener = running.listener if running is not None else None
        return listener if listener is not None and listener.port == port else None

    async def listening_elsewhere(self, found: Found) -> list[int]:
        """Return the port on which it listens, if it is not the one that it was given."""
        running = self._running(found.instance)
        if running is None or running.listener is None or running.listener.port == running.order.port:
            return []
        return [running.listener.port]

    async def wait_exit(self, found: Found) -> ExitStatus:
        """Return once it has ended."""
        await self._enter("wait_exit", found.instance)
        running = self.world.instances.get((self.installation, found.instance))
        if running is None:
            return ExitStatus()
        await running.ended.wait()
        return running.status

    async def stop(self, found: Found, grace: float) -> ExitStatus:
        """Ask it to end, and after `grace` seconds end it. It is resumed by that."""
        await self._enter("stop", found.instance)
        running = self._running(found.instance)
        if running is not None:
            running.resume()
            ending = None if running.script.ignores_stop else running.script.stop_delay
            killed = ending is None or grace <= 0 or grace < ending
            try:
                await asyncio.wait_for(running.ended.wait(), grace if ending is None else min(ending, grace))
            except TimeoutError:
                running.end(ExitStatus(signal=9 if killed else 15))
        known = self.world.instances.get((self.installation, found.instance))
        return known.status if known is not None else ExitStatus()

    async def pause(self, found: Found) -> None:
        """Let it answer nothing from now on, or fail as the script says."""
        await self._enter("pause", found.instance)
        if "pause" not in self.capabilities:
            raise PauseFailed("this driver can't pause")
        running = self._running(found.instance)
        if running is None:
            raise PauseFailed("it can't be paused: it has ended")
        running.overtaken.clear()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(running.overtaken.wait(), running.script.pause_delay)
        if running.script.pause_fails is not None:
            raise PauseFailed(running.script.pause_fails)
        if running.overtaken.is_set():
            raise PauseFailed("it can't be paused: it was resumed or stopped, or has ended")
        running.running.clear()

    async def resume(self, found: Found) -> None:
        """Let it answer again, also what came meanwhile."""
        await self._enter("resume", found.instance)
        running = self._running(found.instance)
        if running is not None:
            await asyncio.sleep(running.script.resume_delay)
            running.resume()

    def logs(
        self, log: Path, *, lines: int, follow: bool, until: asyncio.Event | None = None, begin: int | None = None
    ) -> AsyncGenerator[bytes, None]:
        """Give what scripts wrote to the log, as a real driver does."""
        return read_log(log, lines=lines, follow=follow, until=until, begin=begin)

    async def forget(self, instance: str) -> None:
        """Drop an instance that has ended."""
        await self._enter("forget", instance)
        if self._running(instance) is None:
            self.world.instances.pop((self.installation, instance), None)
            if self.world.claims.get((self.installation, instance)) == "started":
                del self.world.claims[self.installation, instance]
