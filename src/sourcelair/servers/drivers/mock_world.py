"""The machine of the mock driver: instances that run nothing, and do what their scripts say."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Literal

from sourcelair.servers.drivers.base import ExitStatus, Found, Listener, StartOrder
from sourcelair.servers.drivers.mock_site import Site


@dataclass(frozen=True, slots=True)
class Script:
    """What a start does, in seconds. By default it runs and listens at once, on the port that it was given."""

    refuse: str | None = None
    """`check` refuses the spec with this message."""
    start_delay: float = 0.0
    fail: str | None = None
    """The start fails with this message."""
    output: bytes = b""
    """What it writes to its log as it starts."""
    listens: bool = True
    listen_after: float = 0.0
    port: int | None = None
    """Where it listens instead of the port that it was given."""
    host: str = "127.0.0.1"
    backlog: int | None = 128
    local: bool = True
    """Whether no other machine would reach it there."""
    serves: bool = False
    """Whether it really answers HTTP there: 200 with its instance id, or what `status` says."""
    status: int = 200
    exit_after: float | None = None
    exit_status: ExitStatus = field(default_factory=lambda: ExitStatus(code=0))
    """How it ends after `exit_after`."""
    ignores_stop: bool = False
    stop_delay: float = 0.0
    """How long it takes to end when it is asked to."""
    pause_delay: float = 0.0
    pause_fails: str | None = None
    """A pause fails with this message, after its delay."""
    resume_delay: float = 0.0


class MockInstance:
    """An instance that runs in the world, or has ended."""

    def __init__(self, order: StartOrder, script: Script, installation: str, pid: int) -> None:
        self.order = order
        self.script = script
        self.installation = installation
        self.pid = pid
        self.started_at = time.time()
        self.ended = asyncio.Event()
        self.status = ExitStatus()
        self.listener: Listener | None = None
        self.site: Site | None = None
        self.tasks: set[asyncio.Task[None]] = set()
        self.running = asyncio.Event()
        """Not set while it is paused: then it answers nothing, and does not end by itself."""
        self.running.set()
        self.overtaken = asyncio.Event()
        """Set by what a pause that is under way gives way to."""

    def resume(self) -> None:
        """Let it run again."""
        self.overtaken.set()
        self.running.set()

    async def run(self) -> None:
        """Do what the script says, until it ends."""
        try:
            async with asyncio.timeout(self.script.exit_after):
                await asyncio.sleep(self.script.listen_after)
                if self.script.listens:
                    await self.listen(self.script.port or self.order.port)
                await asyncio.Event().wait()
        except TimeoutError:
            await self.running.wait()
            self.end(self.script.exit_status)
        except OSError:  # The port is taken: it ends as an app would.
            self.end(ExitStatus(code=1))

    async def listen(self, port: int) -> None:
        """Listen, and answer where the script says so."""
        if self.script.serves:
            self.site = await Site.open(self.script.host, port, self.order.instance, self.script.status, self.running)
        self.listener = Listener(self.script.host, port, self.script.backlog, self.script.local)

    def end(self, status: ExitStatus) -> None:
        """End, at once."""
        if self.ended.is_set():
            return
        self.status = status
        self.listener = None
        if self.site is not None:
            self.site.close()
        self.ended.set()
        self.resume()  # Nothing of it waits any more.
        for task in self.tasks:
            task.cancel()

    def spawn(self) -> None:
        """Begin to run."""
        task = asyncio.get_running_loop().create_task(self.run())
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)


class MockWorld:
    """The machine on which instances run: it outlives driver objects, as a real one outlives the control plane."""

    def __init__(self) -> None:
        self.claims: dict[tuple[str, str], Literal["void", "started"]] = {}
        self.instances: dict[tuple[str, str], MockInstance] = {}
        self.starts: set[asyncio.Task[Found]] = set()
        self.last_pid = 100_000

    def reboot(self) -> None:
        """End everything at once, and void nothing: claims do not survive."""
        for instance in self.instances.values():
            instance.end(ExitStatus())
        self.instances.clear()
        self.claims.clear()

    async def close(self) -> None:
        """End everything, and wait for what is on its way."""
        for task in self.starts:
            task.cancel()
        await asyncio.gather(*self.starts, return_exceptions=True)
        tasks = [task for instance in self.instances.values() for task in instance.tasks]
        self.reboot()
        await asyncio.gather(*tasks, return_exceptions=True)
