"""The SourceLair API without HTTP: all servers of an installation, their workers, and what was left by the last run."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from types import TracebackType
from typing import Any, Self, cast

from sourcelair.auth import Identity
from sourcelair.client.ceryx import CeryxClient
from sourcelair.client.servers import Server, ServerEvent, ServerInput
from sourcelair.errors import Conflict, HistoryCompacted, LairError, NotFound, PreconditionFailed
from sourcelair.names import check_name, normalise_host
from sourcelair.servers import machine, steps
from sourcelair.servers.context import Context
from sourcelair.servers.drivers.base import Driver, Found
from sourcelair.servers.drivers.process import logs
from sourcelair.servers.inputs import checked_hosts, checked_spec
from sourcelair.servers.ports import Ports
from sourcelair.servers.publishing import Publisher
from sourcelair.servers.records import HOSTS, SERVERS, HostRecord, PortRecord, ServerRecord, decode, encode
from sourcelair.servers.worker import Worker
from sourcelair.settings import Settings, split_port_range
from sourcelair.store.base import Change, Compare, Delete, Put, Store
from sourcelair.telemetry import get_logger

_log = get_logger(__name__)

ROTATE_EVERY = 5.0
"""Seconds between looks at the length of logs."""


class ServersService:
    """The SourceLair API's own work.

    Args:
        store: its own; the service neither opens nor closes it.
        settings: of the installation.
        drivers: by name.
        ceryx: where routes are written; it need not answer yet.
        waker: URL of the waker that all servers' routes name.
        clock: Unix seconds; tests bring their own.
    """

    def __init__(
        self,
        store: Store,
        settings: Settings,
        drivers: Mapping[str, Driver],
        ceryx: CeryxClient,
        *,
        waker: str,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._tasks = set[asyncio.Task[Any]]()
        self._workers: dict[tuple[str, str], Worker] = {}
        self._by_host: dict[str, Worker] = {}
        self._writing = asyncio.Lock()
        self.closing = asyncio.Event()
        """Set once the service closes: every stream ends then."""
        self.recovered = asyncio.Event()
        """Set once every route says what is true now: before that, Ceryx may name targets of an earlier boot."""
        self.context = Context(
            store=store,
            settings=settings,
            drivers=drivers,
            ceryx=ceryx,
            publisher=Publisher(ceryx, waker),
            ports=Ports(store, ceryx, *split_port_range(settings.port_range), settings.port_cooldown),
            slots=asyncio.Semaphore(settings.max_starting),
            spawn=self._spawn,
            removed=self._forget,
            clock=clock,
        )

    # Life.

    async def __aenter__(self) -> Self:
        after: str = ""
        while True:
            page = await self._store.list(SERVERS, start_after=after, limit=1000)
            for entry in page.entries:
                self._add(Worker(self.context, decode(ServerRecord, entry), entry.mod_revision, steps.take))
            if not page.more:
                break
            after = page.entries[-1].key
        ports = await self.context.ports.load()
        self._spawn(self._recover(ports), name="recover")
        self._spawn(self._rotate(), name="logs")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.closing.set()
        for worker in self._workers.values():
            await worker.close()
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks)

    def _spawn(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("task_failed", task=task.get_name(), exc_info=error)

    def _add(self, worker: Worker) -> None:
        self._workers[worker.record.owner, worker.record.project] = worker
        for host in worker.hosts:
            self._by_host[host] = worker

    def _forget(self, record: ServerRecord) -> None:
        worker = self._workers.pop((record.owner, record.project))
        self._drop_hosts(worker, worker.hosts)

    def _drop_hosts(self, worker: Worker, hosts: list[str]) -> None:
        for host in hosts:
            if self._by_host.get(host) is worker:
                del self._by_host[host]

    async def _recover(self, ports: dict[int, PortRecord]) -> None:
        """Make the world fit the records: routes of what rests, instances that nobody knows, ports in quarantine."""
        publisher = self.context.publisher
        managed = await publisher.load()
        resting = [worker for worker in self._workers.values() if worker.recovered]
        if hosts := [host for worker in resting for host in worker.hosts]:
            await publisher.withdraw_all(hosts)
        if stale := [host for host in managed if host not in self._by_host]:
            await publisher.remove(stale)
        known = {worker.record.instance_id for worker in self._workers.values()}
        for driver in self.context.drivers.values():
            for found in await driver.find_all():
                if found.instance not in known:
                    self._spawn(self._end_unknown(driver, found), name=f"unknown instance {found.instance}")
        for port, record in ports.items():
            if record.instance not in known:
                withdrawn = record if record.withdrawn is not None else record.model_copy(update={"withdrawn": 0})
                self._spawn(self.context.ports.release(port, withdrawn), name=f"port {port}")
        self.context.ready.set()
        now = self.context.clock()
        for worker in list(self._workers.values()):
            if worker.record.always_on and worker.record.enabled and worker.record.desired == "awake":
                await worker.update(lambda record: machine.want_awake(record, "always on", now))
            worker.poke()
        for worker in list(self._workers.values()):
            while not worker.route_is_true and not worker.removed:
                await worker.change()
        self.recovered.set()

    async def _end_unknown(self, driver: Driver, found: Found) -> None:
        """End an instance that no record names: of a server that was removed, or of records that are gone."""
        _log.warning("unknown_instance", instance=found.instance, pid=found.pid)
        await driver.stop(found, self.context.settings.stop_grace)
        await driver.forget(found.instance)

    async def _rotate(self) -> None:
        while True:
            await asyncio.sleep(ROTATE_EVERY)
            for worker in list(self._workers.values()):
                if worker.record.instance is not None:
                    with contextlib.suppress(OSError):
                        file = self.context.log(worker.record)
                        await asyncio.to_thread(logs.rotate, file, self.context.settings.log_max_bytes)

    # Asking.

    def worker(self, owner: str, project: str) -> Worker:
        """Return the worker of a server.

        Raises:
            InvalidInput: these are no names.
            NotFound: there is no such server.
        """
        check_name("owner", owner)
        check_name("project", project)
        worker = self._workers.get((owner, project))
        if worker is None:
            raise NotFound(f"No server found for {owner}/{project}.")
        return worker

    def select(self, identity: Identity, host: str | None = None) -> list[Server]:
        """Return the servers that this token may see; with `host`, the one that answers there, or none."""
        if host is not None:
            found = self._by_host.get(normalise_host(host))
            workers = [found] if found is not None else []
        else:
            workers = list(self._workers.values())
        return [worker.show() for worker in workers if may_see(identity, worker.record.owner)]

    async def put(
        self, identity: Identity, owner: str, project: str, body: ServerInput, expect: int | None = None
    ) -> tuple[Server, bool]:
        """Create a server, or change it.

        Args:
            identity: who asks; it may write this owner's servers.
            owner: its owner.
            project: its project.
            body: all that is said of it.
            expect: the revision that it must have; 0: it must not exist.

        Returns:
            the server, and whether it is a new one.

        Raises:
            InvalidInput: something in it can never work.
            PreconditionFailed: `expect` does not hold.
            Conflict: a host is another's, or the server is just being removed.
        """
        primary = self.context.primary_host(owner, project)
        async with self._writing:
            old = self._workers.get((owner, project))
            revision = old.revision if old else 0
            if expect is not None and expect != revision:
                said = f"is at revision {revision}, not {expect}" if old else "does not exist"
                raise PreconditionFailed(
                    f"{owner}/{project} exists already." if expect == 0 else f"{owner}/{project} {said}.",
                    revision=revision,
                )
            if old is not None and old.record.removing:
                raise Conflict(f"{owner}/{project} is being removed: try again in a moment.")
            before = old.record.hosts if old else []
            hosts = checked_hosts(identity, body, primary, self.context.settings.domain, before)
            spec = checked_spec(body.spec, self.context.drivers, old.record.spec if old else None)
            for host in hosts:
                other = self._by_host.get(host)
                if other is not None and other is not old:
                    raise Conflict(f"{host} belongs to {other.record.name}.", host=host)
            new = body.model_copy(update={"spec": spec, "hosts": hosts})
            if old is None:
                return (await self._create(owner, project, new)).show(), True
            return (await self._change(old, new)).show(), False

    async def _create(self, owner: str, project: str, body: ServerInput) -> Worker:
        now = self.context.clock()
        record = ServerRecord(
            owner=owner,
            project=project,
            spec=body.spec,
            hosts=body.hosts,
            enabled=body.enabled,
            always_on=body.always_on,
            desired="asleep" if body.enabled else "disabled",
            created_at=now,
            changed_at=now,
        )
        if body.always_on:
            record = machine.want_awake(record, "always on", now)
        publisher = self.context.publisher
        await publisher.loaded.wait()
        await publisher.check_free(self.context.hosts(record))
        claim = encode(HostRecord(owner=owner, project=project))
        revision = await self._store.transact(
            [Compare(record.key, 0), *(Compare(f"{HOSTS}{host}", 0) for host in record.hosts)],
            [Put(record.key, encode(record)), *(Put(f"{HOSTS}{host}", claim) for host in record.hosts)],
        )
        worker = Worker(self.context, record, revision, steps.take)
        try:
            worker.record.route_revision = await publisher.publish(worker.hosts, None, insist=False)
        except LairError:
            await publisher.remove(worker.hosts)
            await self._store.transact([], [Delete(record.key), *(Delete(f"{HOSTS}{host}") for host in record.hosts)])
            raise
        self._add(worker)
        worker.poke()
        return worker

    async def _change(self, worker: Worker, body: ServerInput) -> Worker:
        now, before = self.context.clock(), worker.hosts
        old = worker.record
        new = old.model_copy(
            update={"spec": body.spec, "hosts": body.hosts, "enabled": body.enabled, "always_on": body.always_on}
        )
        moved = set(old.hosts) != set(body.hosts)
        if moved:
            await self.context.publisher.check_free(body.hosts)
        claim = encode(HostRecord(owner=old.owner, project=old.project))
        await worker.update(
            lambda record: machine.reconfigure(record, new, now),
            [
                *(Put(f"{HOSTS}{host}", claim) for host in body.hosts if host not in old.hosts),
                *(Delete(f"{HOSTS}{host}") for host in old.hosts if host not in body.hosts),
            ],
        )
        if moved:
            self._drop_hosts(worker, before)
            self._add(worker)
            await worker.move_hosts(before)
        return worker

    # Events.

    async def events(self, identity: Identity, after: int | None) -> AsyncGenerator[ServerEvent, None]:
        """Begin to follow all changes after a revision; None: from now on.

        Raises:
            HistoryCompacted: at once, or later from the generator: list again.
        """
        current = await self._store.revision()
        start = (current if after is None else after) + 1
        if start > current + 1:
            raise HistoryCompacted(f"Revision {after} has yet to come, this store is at {current}: list again.")
        changes = cast("AsyncGenerator[Change, None]", self._store.watch(SERVERS, start))
        first = asyncio.ensure_future(anext(changes, None))
        # Lost history shows at the first step, which the store takes before it answers this.
        await self._store.revision()
        await asyncio.sleep(0)
        if first.done() and not first.cancelled() and first.exception() is not None:
            await changes.aclose()
            first.result()
        return self._follow(identity, changes, first)

    async def _follow(
        self, identity: Identity, changes: AsyncGenerator[Change, None], first: asyncio.Future[Change | None]
    ) -> AsyncGenerator[ServerEvent, None]:
        try:
            change = await first
            while change is not None:
                for event in change.events:
                    owner, _, project = event.key.removeprefix(SERVERS).partition("/")
                    if not may_see(identity, owner):
                        continue
                    server = None
                    if event.entry is not None:
                        server = self.context.show(decode(ServerRecord, event.entry), event.revision)
                    yield ServerEvent(revision=event.revision, owner=owner, project=project, server=server)
                change = await anext(changes, None)
        finally:
            first.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await first
            await changes.aclose()


def may_see(identity: Identity, owner: str) -> bool:
    """Return whether this token may see that owner's servers."""
    if identity.kind in {"owner", "read"}:
        return identity.owner == owner or (identity.kind == "read" and identity.owner is None)
    return identity.kind in {"admin", "service"}
