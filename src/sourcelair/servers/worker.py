"""One serialised worker per server: what is wanted is stored in its record, and the worker drives the world to it.

Level-triggered: it looks at the record and at the world, takes one step, and looks again; so a crash between any two
steps is no special case. It ends when the server rests, and begins again when something is wanted.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar

from sourcelair.client.servers import Server, SleepRequest, SleepResult
from sourcelair.errors import LairError, NotFound
from sourcelair.servers import machine
from sourcelair.servers.context import Context
from sourcelair.servers.drivers.base import Driver, ExitStatus, Found
from sourcelair.servers.records import InstanceRecord, ServerRecord, encode
from sourcelair.store.base import Compare, Delete, Operation, Put
from sourcelair.telemetry import get_logger

log = get_logger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 10.0
"""Seconds until a step is tried again that failed for a reason nobody foresaw."""

T = TypeVar("T")

Change = Callable[[ServerRecord], ServerRecord]


class Interrupted(Exception):
    """What the worker was waiting for does not matter any more."""


class Worker:
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
        self.context = context
        self._step = step
        self.record = record
        self.revision = revision
        self.failed_starts = 0
        """Failed starts that this process saw; who waits compares."""
        self.gone = asyncio.Event()
        """Set once it is forgotten."""
        self.asked_at = time.monotonic()
        self.gate: float | None = None
        """Milliseconds that its visitor had waited when it was asked for."""
        self.arrived = False
        """Somebody came since the last drain began."""
        self.relisten = False
        """A connect to the instance was refused."""
        self.log_begin: int | None = None
        """Where the log of the newest instance begins, in bytes; None where an earlier control plane started it."""
        self.found: Found | None = None
        self.published: InstanceRecord | None = None
        self.sleeping: tuple[SleepRequest, asyncio.Future[SleepResult]] | None = None
        self.recovered = record.instance is None
        """What was left of an earlier control plane was looked at."""
        self.route_is_true = self.recovered
        """Its route was written since this one began."""
        self._exit: asyncio.Task[ExitStatus] | None = None
        self._changed = asyncio.Event()
        self._writing = asyncio.Lock()
        self._publishing = asyncio.Lock()
        self._task: object | None = None
        self._closed = False

    @property
    def driver(self) -> Driver:
        """The driver of its spec. Raises LairError where this installation has none of that name."""
        driver = self.context.drivers.get(self.record.spec.driver)
        if driver is None:
            raise LairError(f"{self.record.name} needs the driver {self.record.spec.driver!r}, which is not here.")
        return driver

    @property
    def removed(self) -> bool:
        """Whether it is forgotten."""
        return self.gone.is_set()

    @property
    def hosts(self) -> list[str]:
        """All its public hosts."""
        return self.context.hosts(self.record)

    def show(self) -> Server:
        """Return it as the API answers it."""
        return self.context.show(self.record, self.revision)

    # The record.

    async def update(self, change: Change, also: Sequence[Operation] = ()) -> None:
        """Change the record, on disk before anybody sees it. A change that changes nothing writes nothing.

        Args:
            change: makes the next record of the newest one.
            also: written in the same transaction.

        Raises:
            NotFound: it was forgotten.
        """
        # Whoever asked may be cancelled meanwhile; what is on disk and what we know must not part.
        writing = asyncio.ensure_future(self._update(change, also))
        try:
            await asyncio.shield(writing)
        except asyncio.CancelledError:
            await asyncio.wait([writing])
            raise

    async def _update(self, change: Change, also: Sequence[Operation]) -> None:
        async with self._writing:
            if self.removed:
                raise NotFound(f"No server found for {self.record.name}.")
            record = change(self.record)
            if record == self.record and not also:
                return
            key = record.key
            self.revision = await self.context.store.transact(
                [Compare(key, self.revision)], [Put(key, encode(record)), *also]
            )
            before, self.record = self.record, record
            if record.state == "failed" != before.state:  # before anybody who waits looks again
                self.failed_starts += 1
                log.warning("start_failed", server=record.name, reason=record.failure)
            if record.state != before.state:
                log.info("state", server=record.name, state=record.state, was=before.state, cause=record.cause)
        self.notify()

    async def forget(self, also: Callable[[ServerRecord], Sequence[Operation]]) -> ServerRecord:
        """Delete the record, and return it as it was last; no change comes after it.

        Args:
            also: returns what is written in the same transaction.
        """
        async with self._writing:
            record = self.record
            operations = [Delete(record.key), *also(record)]
            await self.context.store.transact([Compare(record.key, self.revision)], operations)
            self.gone.set()
        return record

    # Waiting.

    def notify(self) -> None:
        """Make everybody look again who waits for this server, and its worker too."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
        self.poke()

    async def change(self, deadline: float | None = None) -> bool:
        """Wait until something changes. Returns False at the deadline (of the loop's clock), if there is one."""
        changed = self._changed
        try:
            async with asyncio.timeout_at(deadline):
                await changed.wait()
        except TimeoutError:
            return False
        return True

    async def race(self, work: Coroutine[Any, Any, T], interrupted: Callable[[], bool]) -> T:
        """Return the work's result.

        Raises:
            Interrupted: that became true before; the work was cancelled.
        """
        task = asyncio.ensure_future(work)
        try:
            while not task.done():
                if interrupted():
                    raise Interrupted
                changed = asyncio.ensure_future(self._changed.wait())
                try:
                    await asyncio.wait({task, changed}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    changed.cancel()
            return task.result()
        finally:
            if not task.done():
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await task

    # The instance.

    def watch(self, found: Found) -> None:
        """Take over an instance that runs, and learn of its end."""
        self.found = found
        self._exit = asyncio.ensure_future(self.driver.wait_exit(found))
        self._exit.add_done_callback(lambda _: self.notify())

    def forget_instance(self) -> None:
        """Nothing of the instance is left."""
        self.found, self.relisten = None, False
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
        async with self._publishing:
            revision = await self.context.publisher.publish(self.hosts, instance)
            self.published = instance
            return revision

    async def unpublish(self) -> None:
        """Delete its routes: it is to be forgotten."""
        async with self._publishing:
            await self.context.publisher.remove(self.hosts)

    async def move_hosts(self, before: Sequence[str]) -> None:
        """Give up hosts that it had before, and publish on those that it has now. All these have routes already."""
        async with self._publishing:
            publisher = self.context.publisher
            if dropped := [host for host in before if host not in self.hosts]:
                await publisher.remove(dropped)
            if self.record.removing:  # its last step deletes them all
                return
            revision = await publisher.publish(self.hosts, self.published)
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
        return not self.removed and (not resting or record.removing or record.desired == "awake")

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
                    await self._step(self)
                    pause = FIRST_PAUSE
                except Exception:
                    log.exception("step_failed", server=self.record.name, state=self.record.state)
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
