"""The steps of a worker, by the state of its server: each looks, does one thing, and stores what is true then."""

from __future__ import annotations

import asyncio
import contextlib

from sourcelair.client.servers import SleepRequest
from sourcelair.servers import machine
from sourcelair.servers.backoff import held_back
from sourcelair.servers.changes import Interrupted
from sourcelair.servers.dozes import doze, resume
from sourcelair.servers.drains import begin_exit, begin_explicit, drain
from sourcelair.servers.drivers.process import logs
from sourcelair.servers.ends import stop
from sourcelair.servers.lifetimes import live
from sourcelair.servers.reasons import why_kept
from sourcelair.servers.records import HOSTS, Drain
from sourcelair.servers.starts import become_ready, start
from sourcelair.servers.vetoes import veto
from sourcelair.servers.worker import Worker, log
from sourcelair.store.base import Delete

LONGEST_LOOK = 60.0
"""Seconds after which a wall clock is looked at again that may have been set."""


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
        case "dozing":
            await doze(worker)
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
        # Before anything is looked at: a launcher may wait for the word of a control plane that stands still.
        voided = record.state == "starting" and await worker.driver.void(instance.id)
        found = None if voided else await worker.driver.inspect(instance.id, instance.handle)
    except Exception:  # nobody is sent to what can't be looked at, and no other server waits for it
        await worker.publish(None)
        worker.route_is_true = True
        worker.notify()
        raise
    if found is not None:
        worker.watch(found)
        # Whatever it looks like: a freeze that was on its way may be still.
        worker.frozen = found.paused or record.state == "dozing" or record.drain == "doze"
    ending = worker.stop_asked or (record.state == "draining" and record.drain not in {"idle", "doze"})
    dozes = record.state == "dozing" and found is not None and found.paused
    if dozes or record.state in {"stopping", "asleep", "failed"} or (ending and record.state != "starting"):
        await worker.publish(None)
        return
    if record.state == "starting":
        await worker.publish(None)
        if found is not None:
            if worker.frozen:
                await resume(worker)
            return
        # One that never ran (and now never will) is no failure: whoever wanted it wants the next one.
        kind: Drain = "explicit" if voided else "exit"
        await worker.update(lambda record: machine.begin_drain(record, kind, now, 0))
        return
    if found is None:
        await worker.publish(None)
        await begin_exit(worker)
        return
    if worker.frozen and not await resume(worker):  # nobody is sent to what stands still
        await worker.publish(None)
        why = "it could not be thawed"
        await worker.update(lambda record: machine.want_restart(record, now, cause=why, actor="system"))
        return
    revision = await worker.publish(instance)
    if record.state == "dozing":
        await worker.update(
            lambda record: machine.thawed(record, revision, record.timing, now, cause="recovered", actor="system")
        )
    else:
        await worker.update(lambda record: machine.became_awake(record, instance, revision, record.timing, now))
    log.info("adopted", server=record.name, instance=instance.id, pid=found.pid)


async def rest(worker: Worker) -> None:
    """Nothing runs: forget it, start it, or wait until it may be tried again."""
    record, context = worker.record, worker.context
    now = context.clock()
    if record.removing:
        await _remove(worker)
    elif worker.may_start():
        worker.ask()
        async with contextlib.AsyncExitStack() as stack:
            try:
                taking = stack.enter_async_context(context.turns.take(record.owner))
                turn = await (taking if context.turns.free else worker.race(taking, lambda: not worker.may_start()))
            except Interrupted:
                return
            await start(worker, turn, worker.waited())
    else:
        worker.visit = None
        left = min(held_back(record, now), LONGEST_LOOK)
        await worker.change(asyncio.get_running_loop().time() + left if left > 0 else None)


async def stay_awake(worker: Worker) -> None:
    """Wait for whatever ends this."""
    now = worker.context.clock()
    if worker.stop_asked:
        await begin_explicit(worker)
    elif worker.exited or worker.found is None:
        await begin_exit(worker)
    elif worker.relisten:
        await worker.update(lambda record: machine.begin_relisten(record, now))
        await worker.publish(None)
    elif worker.sleeping is not None:
        await _begin_sleep(worker, worker.sleeping[0])
        return
    else:
        await live(worker)
        return
    worker.end_sleep("something else came first")


async def _begin_sleep(worker: Worker, request: SleepRequest) -> None:
    """Begin to drain what nobody uses, unless the app itself, or what happens meanwhile, is against it."""
    context = worker.context
    try:
        reason = await veto(worker)
    except Interrupted:
        reason = why_kept(worker.record, context.clock()) or "something else came first"
    if reason is not None:
        worker.end_sleep(reason)
        return
    kind: Drain = "doze" if request.mode == "doze" else "idle"
    timeout = context.settings.idle_drain_timeout
    await worker.update(lambda record: machine.begin_drain(record, kind, context.clock(), timeout))


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
