"""What the last run left is made to fit the records: routes, instances that nobody knows, ports in quarantine.

What is left of a server's own instance is its worker's affair, see `steps.recover`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Container

from sourcelair.errors import LairError
from sourcelair.servers import machine
from sourcelair.servers.acting import until_sure
from sourcelair.servers.context import Context
from sourcelair.servers.drivers.base import Driver, Found
from sourcelair.servers.reasons import is_due
from sourcelair.servers.records import HOSTS, PortRecord
from sourcelair.servers.worker import Worker
from sourcelair.telemetry import get_logger

_log = get_logger(__name__)


async def recover(
    context: Context,
    workers: Callable[[], Collection[Worker]],
    served: Container[str],
    ports: dict[int, PortRecord],
) -> None:
    """Make the world fit the records, let the workers begin, and return once every route says what is true.

    Args:
        context: what all workers share.
        workers: returns those that there are now.
        served: the hosts of all servers.
        ports: as they are stored.
    """
    publisher = context.publisher
    managed = await publisher.load()
    # First: they may take the room that new hosts need, since after a change of `domain` all hosts are new.
    if stale := [host for host in managed if host not in served]:
        await publisher.remove(stale)
    with contextlib.suppress(LairError):  # the next start frees what is left
        await _free_claims(context, workers())
    publisher.loaded.set()
    resting = [(worker, context.policies.routed(worker.record)) for worker in workers() if worker.recovered]
    await publisher.withdraw_all([(host, settings) for worker, settings in resting for host in worker.hosts])
    for worker, settings in resting:
        worker.routed = settings
    known = {worker.record.instance_id for worker in workers()}
    for driver in context.drivers.values():
        everything = await driver.find_all()
        await until_sure(context.store)  # else what is not known here may be a successor's
        for found in everything:
            if found.instance not in known:
                context.spawn(_end_unknown(context, driver, found), name=f"unknown instance {found.instance}")
    for port, record in ports.items():
        if record.instance not in known:
            withdrawn = record if record.withdrawn is not None else record.model_copy(update={"withdrawn": 0})
            context.spawn(context.ports.release(port, withdrawn), name=f"port {port}")
    context.ready.set()
    now = context.clock()
    for worker in workers():
        if is_due(worker.record, now) == "always on":
            with contextlib.suppress(LairError):  # the timetable says so again
                await worker.update(lambda record: machine.want_awake(record, "always on", now))
        worker.poke()
    for worker in workers():
        while not worker.route_is_true and not worker.removed:
            await worker.change()


async def _free_claims(context: Context, workers: Collection[Worker]) -> None:
    """Delete claims of hosts that no record names: else nobody could ever have that host."""
    named = {host for worker in workers for host in worker.record.hosts}
    after = ""
    while True:
        page = await context.store.list(HOSTS, start_after=after, limit=1000)
        left = [entry.key for entry in page.entries if entry.key.removeprefix(HOSTS) not in named]
        if left:
            _log.warning("claims_of_no_server", hosts=[key.removeprefix(HOSTS) for key in left][:10])
            for key in left:
                await context.store.delete(key)
        if not page.more:
            return
        after = page.entries[-1].key


async def _end_unknown(context: Context, driver: Driver, found: Found) -> None:
    """End an instance that no record names: of a server that was removed, or of records that are gone."""
    _log.warning("unknown_instance", instance=found.instance, pid=found.pid)
    await driver.stop(found, context.settings.stop_grace)
    await driver.forget(found.instance)
