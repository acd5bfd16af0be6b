"""The SourceLair API without HTTP: all servers of an installation, their workers, and what was left by the last run."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from types import TracebackType
from typing import Any, Self

from sourcelair.auth import Identity
from sourcelair.client.ceryx import CeryxClient
from sourcelair.client.servers import Server, ServerInput
from sourcelair.errors import Conflict, NotFound, PreconditionFailed
from sourcelair.names import check_name, normalise_host
from sourcelair.servers import machine, steps
from sourcelair.servers.context import Context
from sourcelair.servers.drivers.base import Driver
from sourcelair.servers.drivers.process import logs
from sourcelair.servers.events import may_see
from sourcelair.servers.inputs import checked_hosts, checked_spec
from sourcelair.servers.keeping import no_server
from sourcelair.servers.memory import Memory, read_memory
from sourcelair.servers.metrics import ServersCollector
from sourcelair.servers.owners import Owners
from sourcelair.servers.policies import Policies
from sourcelair.servers.population import Population
from sourcelair.servers.ports import Ports
from sourcelair.servers.pressure import Pressure
from sourcelair.servers.publishing import Publisher
from sourcelair.servers.records import HOSTS, SERVERS, HostRecord, PortRecord, ServerRecord, decode, encode, server_key
from sourcelair.servers.recovery import recover
from sourcelair.servers.timetable import Timetable
from sourcelair.servers.worker import Worker
from sourcelair.settings import Settings, split_port_range
from sourcelair.store.base import Compare, CompareFailed, Delete, Operation, Put, Store
from sourcelair.telemetry import METRICS, get_logger
from sourcelair.turns import Turns

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
        told: returns what an instance, given by its id, is told in its environment: where the API is, and a token.
        clock: Unix seconds; tests bring their own.
        jitter: a number from -1 to 1 for each pause after a failed start.
        memory: reads how much memory there is; None where nobody knows.
    """

    def __init__(
        self,
        store: Store,
        settings: Settings,
        drivers: Mapping[str, Driver],
        ceryx: CeryxClient,
        *,
        waker: str,
        told: Callable[[str], Mapping[str, str]] = lambda _: {},
        clock: Callable[[], float] = time.time,
        jitter: Callable[[], float] = lambda: random.uniform(-1, 1),  # noqa: S311 - it is no secret
        memory: Callable[[], Memory | None] = read_memory,
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
            policies=Policies(settings, drivers),
            publisher=Publisher(ceryx, waker, store),
            ports=Ports(store, ceryx, *split_port_range(settings.port_range), settings.port_cooldown),
            turns=Turns(settings.max_starting),
            population=Population(clock),
            spawn=self._spawn,
            removed=self._forget,
            clock=clock,
            told=told,
            jitter=jitter,
        )
        population = self.context.population
        self._collector = ServersCollector(lambda: population.states, population.seconds_awake)
        self.owners = Owners(
            self.context, lambda owner: [worker for worker in self._workers.values() if worker.record.owner == owner]
        )
        self._timetable = Timetable(clock)
        self._pressure = Pressure(settings.memory_reserve, memory, clock)
        self.context.watching += [self._timetable.look, self._pressure.look]

    # Life.

    async def __aenter__(self) -> Self:
        await self.owners.load()
        after: str = ""
        while True:
            page = await self._store.list(SERVERS, start_after=after, limit=1000)
            for entry in page.entries:
                record = self.context.policies.applied(decode(ServerRecord, entry))
                self._load(Worker(self.context, record, entry.mod_revision, steps.take))
            if not page.more:
                break
            after = page.entries[-1].key
        ports = await self.context.ports.load()
        METRICS.register(self._collector)
        self._spawn(self._recover(ports), name="recover")
        self._spawn(self._timetable.run(), name="timetable")
        self._spawn(self._pressure.run(), name="pressure")
        self._spawn(self._rotate(), name="logs")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.closing.set()
        METRICS.unregister(self._collector)
        for worker in self._workers.values():
            await worker.close()
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks)
        for worker in self._workers.values():  # those who ask over HTTP wait still
            worker.end()

    def _spawn(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("task_failed", task=task.get_name(), exc_info=error)

    def _load(self, worker: Worker) -> None:
        """Take over a server that was stored, maybe when `domain` was another."""
        self.context.population.changed(None, worker.record)
        hosts = self.context.hosts(worker.record)
        for host in worker.record.hosts:
            if host not in hosts:
                _log.warning("host_not_published", server=worker.record.name, host=host, why="it is a server's own")
        self._add(worker)

    def _add(self, worker: Worker) -> None:
        self._workers[worker.record.owner, worker.record.project] = worker
        worker.served = worker.hosts
        for host in worker.served:
            self._by_host[host] = worker
        for look in self.context.watching:
            look(worker)

    def _forget(self, record: ServerRecord) -> None:
        self.context.population.changed(record, None)
        worker = self._workers.pop((record.owner, record.project))
        self._drop_hosts(worker, worker.served)

    def _drop_hosts(self, worker: Worker, hosts: list[str]) -> None:
        for host in hosts:
            if self._by_host.get(host) is worker:
                del self._by_host[host]

    async def _recover(self, ports: dict[int, PortRecord]) -> None:
        await recover(self.context, lambda: list(self._workers.values()), self._by_host, ports)
        self.recovered.set()

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

    def worker_of(self, instance: str) -> Worker:
        """Return the worker of the server whose instance this is right now. Raises NotFound: there is none."""
        name = self.context.population.by_instance.get(instance)
        if name is None:
            raise no_server(instance)
        return self.worker(*name)

    def select(self, identity: Identity, host: str | None = None, prefix: str = "") -> Iterator[Server]:
        """Give the servers that this token may see; with `host`, the one that answers there, or none.

        Only those whose name, `OWNER/PROJECT`, begins with `prefix`.

        Each is shown as it is when it is given, which may be long after this was called; one that was removed
        meanwhile is left out.

        Raises:
            InvalidInput: `host` is none; at once.
        """
        if host is not None:
            found = self._by_host.get(normalise_host(host))
            workers = [found] if found is not None else []
        else:
            workers = list(self._workers.values())
        named = (worker for worker in workers if worker.record.name.startswith(prefix))
        seen = (worker for worker in named if may_see(identity, worker.record.owner))
        return (worker.show() for worker in seen if not worker.removed)

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
            if old is not None:
                _kept(old.record)
            before = self.context.further_hosts(old.record) if old else []
            hosts = checked_hosts(identity, body, primary, self.context.settings.domain, before)
            spec = checked_spec(body.spec, self.context.drivers, old.record.spec if old else None)
            for host in (primary, *hosts):
                other = self._by_host.get(host)
                if other is not None and other is not old:
                    raise Conflict(f"{host} belongs to {other.record.name}.", host=host)
            new = body.model_copy(update={"spec": spec, "hosts": hosts})
            worker = await self._create(identity, owner, project, new) if old is None else None
            if worker is None:
                worker = await self._change(identity, old or await self._adopt(owner, project), new)
        await self.owners.bring_routes(worker)  # not under the lock: Ceryx may take its time
        return worker.show(), old is None

    async def _create(self, identity: Identity, owner: str, project: str, body: ServerInput) -> Worker | None:
        """Create a server. Returns None where there is one already of which nobody here knows, see `_adopt`."""
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
        record = self.context.policies.applied(record)
        if body.always_on:
            record = machine.want_awake(record, "always on", now, actor=identity.actor)
        claim = encode(HostRecord(owner=owner, project=project))
        settings = self.context.policies.routed(record)
        async with self.context.publisher.made(self.context.hosts(record), settings, self._by_host) as made_at:
            try:
                revision = await self._store.transact(
                    [Compare(record.key, 0), *(Compare(f"{HOSTS}{host}", 0) for host in record.hosts)],
                    [Put(record.key, encode(record)), *(Put(f"{HOSTS}{host}", claim) for host in record.hosts)],
                )
            except CompareFailed as error:
                if error.key == record.key:
                    return None
                raise _claimed(error) from error
            worker = Worker(self.context, record, revision, steps.take)
            worker.record.route_revision, worker.routed = made_at, settings
            self.context.population.changed(None, worker.record)
            self._add(worker)
        await self.owners.bring(worker)  # what its owner said meanwhile reached only those that were there
        worker.poke()
        return worker

    async def _adopt(self, owner: str, project: str) -> Worker:
        """Take over a server that was created by a write whose answer never came: nobody wants it but who asked."""
        entry = await self._store.get(server_key(owner, project))
        if entry is None:
            raise NotFound(f"No server found for {owner}/{project}.")
        record = self.context.policies.applied(decode(ServerRecord, entry))
        worker = Worker(self.context, record, entry.mod_revision, steps.take)
        settings = self.context.policies.routed(record)
        made = [(host, settings) for host in self.context.hosts(record)]
        worker.record.route_revision, worker.routed = await self.context.publisher.withdraw_all(made), settings
        self._load(worker)
        return worker

    async def _change(self, identity: Identity, worker: Worker, body: ServerInput) -> Worker:
        now, before = self.context.clock(), worker.served
        old = worker.record
        new = old.model_copy(
            update={"spec": body.spec, "hosts": body.hosts, "enabled": body.enabled, "always_on": body.always_on}
        )
        added = [host for host in body.hosts if host not in old.hosts]
        settings = self.context.policies.routed(self.context.policies.applied(new))
        async with self.context.publisher.made(added, settings, self._by_host):
            try:
                await worker.update(
                    lambda record: self.context.policies.applied(
                        machine.reconfigure(_kept(record), new, now, actor=identity.actor)
                    ),
                    _claims,
                )
            except CompareFailed as error:
                raise _claimed(error) from error
            self._drop_hosts(worker, before)
            self._add(worker)
        if worker.hosts != before:
            await worker.move_hosts(before)
        return worker


def _claims(before: ServerRecord, after: ServerRecord) -> tuple[list[Compare], list[Operation]]:
    """Return the conditions and the writes by which a changed server takes hosts, and gives others up.

    They are of the record as it is stored, since what it says and what is claimed change together; and nobody has a
    host that is taken, also where a write whose answer never came gave it to a server that nobody knows yet.
    """
    added = [f"{HOSTS}{host}" for host in after.hosts if host not in before.hosts]
    dropped = [f"{HOSTS}{host}" for host in before.hosts if host not in after.hosts]
    claim = encode(HostRecord(owner=after.owner, project=after.project))
    return [Compare(key, 0) for key in added], [*(Put(key, claim) for key in added), *map(Delete, dropped)]


def _claimed(error: CompareFailed) -> Conflict:
    host = error.key.removeprefix(HOSTS)
    return Conflict(f"{host} was claimed before.", host=host)


def _kept(record: ServerRecord) -> ServerRecord:
    """Return a record that is not being removed. Raises Conflict: it is."""
    if record.removing:
        raise Conflict(f"{record.name} is being removed: try again in a moment.")
    return record
