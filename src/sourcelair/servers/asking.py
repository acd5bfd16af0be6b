"""What users and visitors ask of one server, and the waiting until it is so."""

from __future__ import annotations

import asyncio
import time

from sourcelair.client.servers import Server, SleepRequest, SleepResult, StartRequest
from sourcelair.errors import Conflict, LairError, NotFound, Unavailable
from sourcelair.servers import machine
from sourcelair.servers.records import ServerRecord
from sourcelair.servers.worker import Worker

USER = "user"
"""The cause of a start that a person asked for: it does not wait for the back-off."""


async def start(worker: Worker, request: StartRequest, wait: float) -> Server:
    """Start it (no more than once, however many ask), and wait until it is awake.

    Where the instance that there is has to end, that is the next one.

    Returns:
        the server: awake, or still on its way after `wait` seconds.

    Raises:
        NotFound: it was removed.
        Conflict: it is disabled.
        Unavailable: the start failed, or may not be tried again yet.
    """
    deadline = asyncio.get_running_loop().time() + wait
    failed_before, asked_again = worker.failed_starts, False
    by_user = request.cause == USER
    while True:
        record = worker.record
        if worker.removed or record.removing:
            raise _not_found(record)
        if not record.enabled:
            raise Conflict(f"{record.name} is disabled: `enabled` must be true before it can start.", state="disabled")
        if record.state == "awake" and not worker.stop_asked:
            if not asked_again and _is_refused(record, request):
                asked_again = worker.relisten = True
                worker.notify()
            elif worker.recovered and not worker.relisten:
                return worker.show()
        elif worker.failed_starts > failed_before:
            raise _failure(record)
        else:
            await _want(worker, request, by_user=by_user)
            by_user = False  # its own failure counts like any other
        if worker.record is record and not await worker.change(deadline):
            return worker.show()
        if asyncio.get_running_loop().time() >= deadline:
            return worker.show()


async def _want(worker: Worker, request: StartRequest, *, by_user: bool) -> None:
    record, now = worker.record, worker.context.clock()
    if not by_user and record.state in {"asleep", "failed"} and record.retry_at and record.retry_at > now:
        raise _failure(record, held_back=True)
    worker.arrived = True
    if record.desired != "awake":
        worker.asked_at = time.monotonic()
        worker.gate = None if request.since is None else max(0.0, now - request.since) * 1000

    def want(record: ServerRecord) -> ServerRecord:
        wanted = machine.want_awake(record, request.cause, now)
        return wanted.model_copy(update={"retry_at": None}) if by_user else wanted

    if record.state == "draining":
        worker.notify()
    await worker.update(want)


def _is_refused(record: ServerRecord, request: StartRequest) -> bool:
    """Return whether a connect to what is published right now was refused."""
    if request.failed_instance is None or request.failed_instance != record.instance_id:
        return False
    return request.failed_revision is None or request.failed_revision >= (record.route_revision or 0)


def _failure(record: ServerRecord, *, held_back: bool = False) -> LairError:
    """Return what a failed start is answered with; `held_back`: nothing was tried for that."""
    retry_at = record.retry_at
    return Unavailable(
        f"{record.name} did not start: {record.failure or 'nobody saw why'}.",
        retry_after=max(1.0, retry_at - time.time()) if retry_at else 1.0,
        state="failed",
        log=record.failure_log,
        retry_at=retry_at,
        held_back=held_back,
    )


def _not_found(record: ServerRecord) -> NotFound:
    return NotFound(f"No server found for {record.name}.")


def _there(record: ServerRecord) -> ServerRecord:
    """Return a record that is not being removed. Raises NotFound: it is."""
    if record.removing:
        raise _not_found(record)
    return record


async def stop(worker: Worker, wait: float) -> Server:
    """Stop the instance that there is, whoever visits; answered when it is gone, or after `wait` seconds.

    Raises:
        NotFound: it is being removed.
    """
    instance = worker.record.instance_id
    now = worker.context.clock()
    await worker.update(lambda record: machine.want_asleep(_there(record), "stopped by a user", now))
    await _until_gone(worker, instance, wait)
    return worker.show()


async def restart(worker: Worker, wait: float) -> Server:
    """Stop the instance that there is, and start another; answered when that one is awake.

    Raises:
        LairError: those of `start`.
    """
    deadline = asyncio.get_running_loop().time() + wait
    instance = worker.record.instance_id
    if worker.record.enabled:
        now = worker.context.clock()
        await worker.update(lambda record: machine.want_restart(_there(record), now))
        await _until_gone(worker, instance, wait)
    return await start(worker, StartRequest(), max(0.0, deadline - asyncio.get_running_loop().time()))


async def remove(worker: Worker, wait: float) -> bool:
    """Stop it and forget it; returns whether that was done after `wait` seconds. It is done in any case."""
    now = worker.context.clock()
    await worker.update(lambda record: machine.want_removed(record, now))
    deadline = asyncio.get_running_loop().time() + wait
    while not worker.removed:
        if not await worker.change(deadline):
            return False
    return True


async def _until_gone(worker: Worker, instance: str | None, wait: float) -> None:
    deadline = asyncio.get_running_loop().time() + wait
    while instance is not None and worker.record.instance_id == instance and not worker.removed:
        if not await worker.change(deadline):
            return


async def sleep(worker: Worker, request: SleepRequest) -> SleepResult:
    """Stop it if nobody uses it: any arrival cancels that."""
    record = worker.record
    if record.state != "awake" or record.instance_id != request.instance:
        return SleepResult(slept=False, reason=f"it is {record.state}, or another instance")
    if record.always_on:
        return SleepResult(slept=False, reason="it is always on")
    if worker.sleeping is not None:
        return SleepResult(slept=False, reason="it is about to sleep already")
    silent = [node.node for node in await worker.context.ceryx.nodes() if node.state == "silent"]
    if silent:  # it could hide a visit, and visitors would be held in vain
        return SleepResult(slept=False, reason=f"the proxy node {silent[0]} is silent")
    if worker.record is not record or worker.sleeping is not None:
        return SleepResult(slept=False, reason="something else came first")
    answer: asyncio.Future[SleepResult] = asyncio.get_running_loop().create_future()
    worker.sleeping = (request, answer)
    worker.notify()
    return await asyncio.shield(answer)
