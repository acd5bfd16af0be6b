"""Dozing: an instance is frozen in memory, withdrawn and with nothing in flight; a visit thaws it in milliseconds.

Who freezes has stored `dozing` before, and who publishes has thawed before (a stop thaws by itself): whatever a crash
comes between, a record that says `dozing` of what is not frozen means "publish it", and no other state is ever frozen.

A thaw is what somebody waits for, so nothing is written to disk on the way to the publication: that it is wanted is
kept in memory, and stored together with `awake`. Who waits during a crash asks again.
"""

from __future__ import annotations

import asyncio
import contextlib

from sourcelair.client.servers import Timing
from sourcelair.errors import LairError
from sourcelair.servers import machine
from sourcelair.servers.changes import Interrupted
from sourcelair.servers.drains import begin_exit, begin_explicit
from sourcelair.servers.lifetimes import live
from sourcelair.servers.reasons import why_running
from sourcelair.servers.records import ServerRecord
from sourcelair.servers.worker import Visit, Worker, log

DOZE_AGAIN = 600.0
"""Seconds for which an instance that could not be frozen is not tried again."""

THAWS, PAUSE = 3, 0.05
"""Tries to thaw an instance before it is ended and another started, and the seconds between them."""


def why_not(worker: Worker) -> str | None:
    """Return why this server can't be frozen; None if it can."""
    if "pause" not in worker.driver.capabilities:
        return f"the driver {worker.driver.name!r} can't freeze it here"
    if worker.no_doze is not None and asyncio.get_running_loop().time() < worker.no_doze[0]:
        return worker.no_doze[1]
    return None


async def doze(worker: Worker) -> None:
    """Freeze it, and wait for whatever ends this."""
    context = worker.context
    if worker.exited or worker.found is None:
        await begin_exit(worker)
        worker.end_sleep("it ended by itself")
    elif worker.stop_asked:
        await begin_explicit(worker)
        worker.end_sleep("an explicit stop came first")
    elif (visit := _wanted(worker)) is not None:
        await _thaw(worker, visit)
    elif not worker.frozen:
        await _freeze(worker)
    elif worker.sleeping is not None:
        with contextlib.suppress(Interrupted):
            await worker.update(lambda record: machine.begin_stopping(_undisturbed(worker, record), context.clock()))
            worker.end_sleep("idle", slept=True)
    else:
        await live(worker)


def _wanted(worker: Worker) -> Visit | None:
    """Return who wants it awake, if anybody does; somebody who came first."""
    record = worker.record
    if worker.visit is None and record.desired == "awake":
        return Visit(record.cause or "it is wanted", record.actor or "system")
    if worker.visit is None and (reason := why_running(record, worker.context.clock())) is not None:
        return Visit(reason, "policy")
    return worker.visit


def _undisturbed(worker: Worker, record: ServerRecord) -> ServerRecord:
    """Return the record as it is when the stop is stored. Raises Interrupted: somebody came while that waited."""
    if _wanted(worker) is not None or worker.stop_asked or worker.exited:
        raise Interrupted
    return record


async def _freeze(worker: Worker) -> None:
    if worker.found is None:
        return
    worker.frozen = True  # or it may be so: from here on it is thawed before anything else
    try:
        await worker.race(
            worker.driver.pause(worker.found),
            lambda: worker.exited or worker.stop_asked or _wanted(worker) is not None,
        )
    except Interrupted:  # it may be frozen all the same: it is thawed, whatever is said next or taken back
        worker.visit = _wanted(worker) or Visit("something kept it awake", "policy")
    except Exception as error:
        if worker.exited:
            return
        log.warning("not_frozen", server=worker.record.name, instance=worker.record.instance_id, error=str(error))
        reason = f"it could not be frozen: {error or type(error).__name__}"
        worker.no_doze = asyncio.get_running_loop().time() + DOZE_AGAIN, reason
        worker.visit = worker.visit or Visit(reason, "system")
        worker.end_sleep(reason)
    else:
        try:
            await worker.context.store.transact([], [])  # whoever stood still meanwhile may have been followed
        except LairError:
            await worker.driver.resume(worker.found)
            worker.frozen = False
            raise
        log.info("frozen", server=worker.record.name, instance=worker.record.instance_id)
        worker.end_sleep("idle", slept=True)


async def _thaw(worker: Worker, visit: Visit) -> None:
    worker.ask()
    timing, clock = Timing(gate=worker.gate), worker.context.clock
    if not await resume(worker):
        why = "it could not be thawed"
        await worker.update(lambda record: machine.want_restart(record, clock(), cause=why, actor="system"))
        return
    timing.thawed = worker.waited()
    if worker.stop_asked or worker.exited:
        return
    revision = await worker.publish(machine.instance_of(worker.record))
    timing.published = worker.waited()
    worker.end_sleep("somebody came")  # before it is told that it is awake: who asks for a sleep after that means it
    await worker.update(
        lambda record: machine.thawed(record, revision, timing, clock(), cause=visit.cause, actor=visit.actor)
    )
    worker.visit = worker.asked = None
    log.info("thawed", server=worker.record.name, instance=worker.record.instance_id, **timing.model_dump())


async def resume(worker: Worker) -> bool:
    """Let an instance run again, and return whether it does; one that is not frozen stays as it is."""
    if worker.found is None:
        return True
    for again in range(THAWS):
        if again:
            await asyncio.sleep(PAUSE)
        try:
            await worker.driver.resume(worker.found)
        except Exception:
            log.exception("not_thawed", server=worker.record.name, instance=worker.record.instance_id)
            if worker.exited:
                return True
        else:
            worker.frozen = False
            return True
    return False
