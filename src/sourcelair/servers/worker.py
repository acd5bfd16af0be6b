"""One serialised worker per server: what is wanted is stored in its record, and the worker drives the world to it.

Level-triggered: it looks at the record and at the world, takes one step, and looks again; so a crash between any two
steps is no special case. It ends when the server rests, and begins again when something is wanted.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from sourcelair.client.ceryx import RouteSettings
from sourcelair.client.servers import Server, SleepRequest, SleepResult
from sourcelair.errors import LairError
from sourcelair.servers import machine
from sourcelair.servers.context import Context
from sourcelair.servers.drivers.base import Driver, ExitStatus, Found
from sourcelair.servers.records import InstanceRecord, ServerRecord
from sourcelair.servers.stored import Stored
from sourcelair.telemetry import get_logger

log = get_logger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 10.0
"""Seconds until a step is tried again that failed for a reason nobody foresaw."""


@dataclass(frozen=True, slots=True)
class Visit:
    """Who thaws a server that dozes, and why."""

    cause: str
    actor: str


class Worker(Stored):
    """The worker of one server: its record, what is asked of it, and its task.

    Args:
        context: what all workers share.
        record: as it is stored.
        revision: of the record in the store.
        step: takes the next step, whatever that is; it is called for as long as there is work.
    """

    def __init__(
        self, context: Context, record: ServerRecord, revision: int, step: Callable[[Worker], Awaitable[None]]
    ) -> None:
        super().__init__(context, record, revision)
        self._step = step
        self.stops = 0
        """Stops that users asked for; a start that was asked for before one of them is over."""
        self.asked: float | None = None
        """Since when (monotonic seconds) somebody waits for it."""
        self.gate: float | None = None
        """Milliseconds that its visitor had waited when it was asked for."""
        self.arrived = False
        """Somebody came since it was last asked to sleep."""
        self.relisten = False
        """A connect to the instance was refused."""
        self.visit: Visit | None = None
        """Somebody came while it dozes, or rests. That is not stored by itself: after a crash they come again."""
        self.frozen = False
        """The instance is frozen, or may be so."""
        self.no_doze: tuple[float, str] | None = None
        """Until when (of the loop's clock) it is not frozen again, and why."""
        self._born: float | None = None
        """Since when (monotonic seconds) its instance has been awake, once somebody wanted to know."""
        self.log_begin: int | None = None
        """Where the log of the newest instance begins, in bytes; None where an earlier control plane started it."""
        self.found: Found | None = None
        self.served: list[str] = []
        """Its hosts as all servers' hosts are known: those of its record, unless that was read anew since."""
        self.published: InstanceRecord | None = None
        self.routed: RouteSettings | None = None
        """The settings of its routes as they were written; None where this process has not written any yet."""
        self.sleeping: tuple[SleepRequest, asyncio.Future[SleepResult]] | None = None
        self.route_is_true = self.recovered
        """Its route was written since this one began."""
        self._exit: asyncio.Task[ExitStatus] | None = None
        self.publishing = asyncio.Lock()
        """Held while its routes are written."""
        self.reporting = asyncio.Lock()
        """Held while what a start took is added to the report."""
        self._task: object | None = None
        self._closed = False

    @property
    def driver(self) -> Driver:
        """The driver of its instance, else of its spec. Raises LairError where this installation has it not."""
        instance = self.record.instance
        name = (instance.driver if instance else None) or self.record.spec.driver
        driver = self.context.drivers.get(name)
        if driver is None:
            raise LairError(f"{self.record.name} needs the driver {name!r}, which is not here.")
        return driver

    @property
    def hosts(self) -> list[str]:
        """All its public hosts."""
        return self.context.hosts(self.record)

    def show(self) -> Server:
        """Return it as the API answers it."""
        return self.context.show(self.record, self.revision)

    # Waiting.

    def ask(self, gate: float | None = None) -> None:
        """Somebody waits for it from now on, if nobody did before, and had waited `gate` milliseconds already."""
        if self.asked is None:
            self.asked, self.gate = time.monotonic(), gate

    def waited(self) -> float:
        """Return the milliseconds since somebody asked for it."""
        return 0.0 if self.asked is None else (time.monotonic() - self.asked) * 1000

    def notify(self) -> None:
        """Make everybody look again who waits for this server, and its worker too."""
        super().notify()
        for watch in self.context.watching:
            watch(self)
        self.poke()

    # The instance.

    def watch(self, found: Found) -> None:
        """Take over an instance that runs, and learn of its end."""
        self.found = found
        self._exit = asyncio.ensure_future(self.driver.wait_exit(found))
        self._exit.add_done_callback(lambda _: self.notify())

    def age(self) -> float:
        """Return the seconds for which its instance has been awake, by a clock that nobody sets."""
        now = time.monotonic()
        if self._born is None:
            awake_at = self.record.instance.awake_at if self.record.instance else None
            past = 0.0 if awake_at is None else self.context.clock() - awake_at
            self._born = now - max(0.0, past)
        return now - self._born

    def forget_instance(self) -> None:
        """Nothing of the instance is left."""
        self.found, self.relisten, self.frozen = None, False, False
        if self.visit is not None and self.visit.actor in {"policy", "system"}:  # others want the next one
            self.visit = None
        self.no_doze = self._born = None
        if self.record.desired != "awake" or self.record.state == "failed":
            self.asked = None
        if self._exit is not None:
            self._exit.cancel()
            self._exit = None

    @property
    def exited(self) -> bool:
        """Whether the instance ended by itself."""
        return self._exit is not None and self._exit.done() and not self._exit.cancelled()

    def exit_status(self) -> ExitStatus | None:
        """Return how it ended, where somebody saw it."""
        if self._exit is None or not self.exited or self._exit.exception():
            return None
        return self._exit.result()

    @property
    def stop_asked(self) -> bool:
        """Whether an explicit stop is for the instance that there is."""
        return machine.stop_asked(self.record)

    async def publish(self, instance: InstanceRecord | None) -> int:
        """Write the routes, and return their revision. None withdraws."""
        async with self.publishing:
            return await self._publish(instance)

    async def _publish(self, instance: InstanceRecord | None) -> int:
        settings = self.context.policies.routed(self.record)
        revision = await self.context.publisher.publish(self.hosts, instance, settings)
        self.published, self.routed = instance, settings
        return revision

    def settings_due(self) -> RouteSettings | None:
        """Return what its routes' settings have to become; None where they are so, or will be written anyway."""
        # One that was never written here has that to come, and the last step deletes them all.
        if self.routed is None or self.record.removing or self.removed:
            return None
        settings = self.context.policies.routed(self.record)
        return None if settings == self.routed else settings

    async def unpublish(self) -> None:
        """Delete its routes: it is to be forgotten."""
        async with self.publishing:
            await self.context.publisher.remove(self.hosts)

    async def move_hosts(self, before: Sequence[str]) -> None:
        """Give up hosts that it had before, and publish on those that it has now. All these have routes already."""
        async with self.publishing:
            publisher = self.context.publisher
            if dropped := [host for host in before if host not in self.hosts]:
                await publisher.remove(dropped)
            if self.record.removing:  # its last step deletes them all
                return
            revision = await self._publish(self.published)
        await self.update(lambda record: record.model_copy(update={"route_revision": revision}))

    def end_sleep(self, reason: str, *, slept: bool = False) -> None:
        """Answer whoever asked for an idle stop."""
        if self.sleeping is not None:
            _, future = self.sleeping
            self.sleeping = None
            if not future.done():
                future.set_result(SleepResult(slept=slept, reason=reason))

    # The task.

    @property
    def has_work(self) -> bool:
        """Whether anything is to be done, or to be waited for."""
        record = self.record
        resting = record.state in {"asleep", "failed"} and record.instance is None
        wanted = record.desired == "awake" or self.visit is not None
        return not self.removed and (not resting or record.removing or wanted or self.doubtful)

    def as_wanted(self, record: ServerRecord) -> ServerRecord:
        """Return the record with what whoever came wants of it: stored together with what follows from that."""
        if self.visit is None or record.state not in {"asleep", "failed"}:
            return record
        return machine.want_awake(record, self.visit.cause, self.context.clock(), actor=self.visit.actor)

    def may_start(self) -> bool:
        """Return whether a start may begin now."""
        return machine.may_start(self.as_wanted(self.record), self.context.clock())

    def poke(self) -> None:
        """See to it that the worker runs if there is work."""
        if self._task is None and self.has_work and not self._closed:
            self._task = self.context.spawn(self._run(), name=f"server {self.record.name}")

    async def _run(self) -> None:
        pause = FIRST_PAUSE
        try:
            await self.context.ready.wait()
            while self.has_work:
                try:
                    if self.doubtful:
                        await self.update(lambda record: record)
                        continue
                    await self._step(self)
                    pause = FIRST_PAUSE
                except Exception as error:
                    record = self.record
                    if isinstance(error, LairError):  # foreseen, such as a store that does not answer
                        log.warning("step_put_off", server=record.name, state=record.state, error=error.detail)
                    else:
                        log.exception("step_failed", server=record.name, state=record.state)
                    await asyncio.sleep(pause)
                    pause = min(pause * 2, LONGEST_PAUSE)
        finally:
            self._task = None
            self.end_sleep(f"it is {self.record.state}")

    async def close(self) -> None:
        """Stop watching the instance, which goes on. No step is taken any more, whatever is asked."""
        self._closed = True
        if self._exit is not None:
            self._exit.cancel()
            await asyncio.wait([self._exit])
