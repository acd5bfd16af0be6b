"""The steps of a worker, by the state of its server: each looks, does one thing, and stores what is true then."""

from __future__ import annotations

import asyncio
import contextlib

from sourcelair.servers import machine
from sourcelair.servers.drains import begin_explicit, drain
from sourcelair.servers.drivers.process import logs
from sourcelair.servers.ends import stop
from sourcelair.servers.records import HOSTS, Drain
from sourcelair.servers.starts import become_ready, ms_since, start
from sourcelair.servers.worker import Interrupted, Worker, log
from sourcelair.store.base import Delete


async def take(worker: Worker) -> None:
    """Take the next step."""
    if not worker.recovered:
        await recover(worker)
        worker.recovered = worker.route_is_true = True
        worker.notify()
        return
    match worker.record.state:
        case "starting":
            await become_ready(worker)
        case "awake":
            await stay_awake(worker)
        case "draining":
            await drain(worker)
        case "stopping":
            await stop(worker)
        case _:
            await rest(worker)


async def recover(worker: Worker) -> None:
    """After a start of the control plane: adopt what runs, and write the routes once, even where they look right.

    That write makes every other one land as nothing that was on its way when the last control plane ended.
    """
    record, now = worker.record, worker.context.clock()
    instance = machine.instance_of(record)
    try:
        found = await worker.driver.inspect(instance.id, instance.handle)
    except Exception:  # nobody is sent to what can't be looked at, and no other server waits for it
        await worker.publish(None)
        worker.route_is_true = True
        worker.notify()
        raise
    if found is not None:
        worker.watch(found)
    ending = worker.stop_asked or (record.state == "draining" and record.drain != "idle")
    if record.state in {"stopping", "asleep", "failed"} or (ending and record.state != "starting"):
        await worker.publish(None)
        return
    if record.state == "starting":
        await worker.publish(None)
        if found is not None:
            return
        # One that never ran (and now never will) is no failure: whoever wanted it wants the next one.
        kind: Drain = "explicit" if await worker.driver.void(instance.id) else "exit"
        await worker.update(lambda record: machine.begin_drain(record, kind, now, 0))
        return
    if found is None:
        await worker.publish(None)
        await worker.update(lambda record: machine.begin_drain(record, "exit", now, 0))
        return
    revision = await worker.publish(instance)
    await worker.update(lambda record: machine.became_awake(record, instance, revision, record.timing, now))
    log.info("adopted", server=record.name, instance=instance.id, pid=found.pid)


async def rest(worker: Worker) -> None:
    """Nothing runs: forget it, start it, or wait until it may be tried again."""
    record, context = worker.record, worker.context
    now = context.clock()
    if record.removing:
        await _remove(worker)
    elif machine.may_start(record, now):
        async with contextlib.AsyncExitStack() as stack:
            try:
                turn = await worker.race(
                    stack.enter_async_context(context.turns.take(record.owner)),
                    lambda: not machine.may_start(worker.record, context.clock()),
                )
            except Interrupted:
                return
            await start(worker, turn, ms_since(worker.asked_at))
    else:
        left = (record.retry_at or 0.0) - now
        await worker.change(asyncio.get_running_loop().time() + left if left > 0 else None)


async def stay_awake(worker: Worker) -> None:
    """Wait for whatever ends this."""
    context, now = worker.context, worker.context.clock()
    if worker.stop_asked:
        await begin_explicit(worker)
    elif worker.exited or worker.found is None:
        await worker.update(lambda record: machine.begin_drain(record, "exit", now, 0))
    elif worker.relisten:
        await worker.update(lambda record: machine.begin_relisten(record, now))
        await worker.publish(None)
    elif worker.sleeping is not None:
        worker.arrived = False
        timeout = context.settings.idle_drain_timeout
        await worker.update(lambda record: machine.begin_drain(record, "idle", now, timeout))
    else:
        await worker.change(asyncio.get_running_loop().time() + 3600)
        return
    if worker.record.drain != "idle":
        worker.end_sleep("something else came first")


async def _remove(worker: Worker) -> None:
    """Forget the server: its routes first, so that a crash between leaves what says that it is to be removed."""
    context = worker.context
    await worker.unpublish()
    record = await worker.forget(lambda record: [Delete(f"{HOSTS}{host}") for host in record.hosts])
    context.removed(record)
    try:
        await asyncio.to_thread(logs.remove, context.log(record))
    finally:
        worker.notify()
    log.info("removed", server=record.name)
