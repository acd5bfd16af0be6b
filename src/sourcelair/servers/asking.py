"""What users and visitors ask of one server, and the waiting until it is so."""

from __future__ import annotations

import asyncio

from sourcelair.auth import Identity
from sourcelair.client.servers import Server, SleepRequest, SleepResult, StartRequest
from sourcelair.errors import Conflict, LairError, NotFound, Unavailable
from sourcelair.servers import dozes, machine
from sourcelair.servers.backoff import held_back
from sourcelair.servers.reasons import why_kept
from sourcelair.servers.records import ServerRecord
from sourcelair.servers.worker import Visit, Worker

USER = "user"
"""The cause of a start that a person asked for: it does not wait for the back-off."""


def actor_of(identity: Identity, request: StartRequest) -> str:
    """Return who asks for a start: a service asks for visitors, unless it says that a person wants it."""
    return "visitor" if identity.kind == "service" and request.cause != USER else identity.actor


async def start(worker: Worker, request: StartRequest, wait: float, *, actor: str = "visitor") -> Server:
    """Start it (no more than once, however many ask), or thaw it, and wait until it is awake.

    Where the instance that there is has to end, that is the next one.

    Args:
        worker: of the server.
        request: says why.
        wait: seconds.
        actor: who asks.

    Returns:
        the server: awake, or still on its way after `wait` seconds.

    Raises:
        NotFound: it was removed.
        Conflict: it is disabled.
        Unavailable: the start failed, or may not be tried again yet, or not without a person.
    """
    deadline = asyncio.get_running_loop().time() + wait
    failed_before, stops_before, asked_again = worker.failed_starts, worker.stops, False
    by_user = request.cause == USER
    while True:
        record = worker.record
        if worker.removed or record.removing:
            raise _not_found(record)
        if not record.enabled:
            raise Conflict(f"{record.name} is disabled: `enabled` must be true before it can start.", state="disabled")
        if record.state == "awake" and not worker.stop_asked:
            worker.arrived = True
            if not asked_again and _is_refused(record, request):
                asked_again = worker.relisten = True
                worker.notify()
            elif worker.recovered and not worker.relisten and not worker.doubtful:
                return worker.show()
        elif worker.failed_starts > failed_before:
            raise _failure(record, worker.context.clock())
        elif worker.stops > stops_before:  # the last word counts; who still waits asks again
            return worker.show()
        else:
            await _come(worker, request, actor, wait=wait, by_user=by_user)
            by_user = False  # its own failure counts like any other
        if worker.record is record and not await worker.change(deadline):
            return worker.show()
        if asyncio.get_running_loop().time() >= deadline:
            return worker.show()


async def _come(worker: Worker, request: StartRequest, actor: str, *, wait: float, by_user: bool) -> None:
    """Want it awake: by the worker's own next write where whoever asks waits, and comes again after a crash."""
    state = worker.record.state
    if state == "dozing" and not worker.stop_asked:
        _visit(worker, request, actor)
    if state in {"asleep", "failed"} and wait > 0 and not by_user:
        _check_tries(worker)
        _visit(worker, request, actor)
    elif state != "dozing" or worker.stop_asked or wait <= 0:
        await _want(worker, request, actor, by_user=by_user)


async def _want(worker: Worker, request: StartRequest, actor: str, *, by_user: bool) -> None:
    record, now = worker.record, worker.context.clock()
    if not by_user:
        _check_tries(worker)
    worker.arrived = True
    if record.desired != "awake" and record.state != "dozing":
        worker.asked = None
        worker.ask(_gate(request, now))

    def want(record: ServerRecord) -> ServerRecord:
        if by_user:
            return machine.want_another_try(record, request.cause, now, actor=actor)
        return machine.want_awake(record, request.cause, now, actor=actor)

    if record.state == "draining":
        worker.notify()
    await worker.update(want)


def _check_tries(worker: Worker) -> None:
    """Raise Unavailable where a start has failed, and may not be tried again yet."""
    record, now = worker.record, worker.context.clock()
    if record.state in {"asleep", "failed"} and (record.given_up or held_back(record, now)):
        raise _failure(record, now, tried=False)


def _visit(worker: Worker, request: StartRequest, actor: str) -> None:
    """Let the worker thaw or start it at once: that it is wanted needs no write to the disk of its own."""
    worker.arrived = True
    if worker.visit is None and worker.record.desired != "awake":
        worker.visit = Visit(request.cause, actor)
        if worker.record.state != "dozing":
            worker.asked = None
        worker.ask(_gate(request, worker.context.clock()))
        worker.notify()


def _gate(request: StartRequest, now: float) -> float | None:
    """Return the milliseconds for which its visitor had waited before this was asked."""
    return None if request.since is None else max(0.0, now - request.since) * 1000


def _is_refused(record: ServerRecord, request: StartRequest) -> bool:
    """Return whether a connect to what is published right now was refused."""
    if request.failed_instance is None or request.failed_instance != record.instance_id:
        return False
    return request.failed_revision is None or request.failed_revision >= (record.route_revision or 0)


def _failure(record: ServerRecord, now: float, *, tried: bool = True) -> LairError:
    """Return what a failed start is answered with. Not `tried`: nothing was started for whoever asked."""
    said = f"{record.name} did not start: {record.failure or 'nobody saw why'}."
    if record.given_up:
        said += " Its tries are used up: a user's start, or another spec, tries again."
        return Unavailable(said, state="failed", log=record.failure_log, given_up=True, held_back=not tried)
    return Unavailable(
        said,
        retry_after=max(1.0, held_back(record, now)),
        state="failed",
        log=record.failure_log,
        retry_at=record.retry_at,
        held_back=not tried,
    )


def _not_found(record: ServerRecord) -> NotFound:
    return NotFound(f"No server found for {record.name}.")


def _there(record: ServerRecord) -> ServerRecord:
    """Return a record that is not being removed. Raises NotFound: it is."""
    if record.removing:
        raise _not_found(record)
    return record


async def stop(worker: Worker, wait: float, *, actor: str = "system") -> Server:
    """Stop the instance that there is, whoever visits; answered when it is gone, or after `wait` seconds.

    Raises:
        NotFound: it is being removed.
    """
    instance = worker.record.instance_id
    now = worker.context.clock()

    def stopped(record: ServerRecord) -> ServerRecord:
        worker.visit = None  # a start that only waits for its turn is called off
        worker.stops += 1
        return machine.want_asleep(_there(record), "stopped by a user", now, actor=actor)

    await worker.update(stopped)
    await until_gone(worker, instance, wait)
    return worker.show()


async def restart(worker: Worker, wait: float, *, actor: str = "system") -> Server:
    """Stop the instance that there is, and start another; answered when that one is awake.

    Raises:
        LairError: those of `start`.
    """
    deadline = asyncio.get_running_loop().time() + wait
    instance = worker.record.instance_id
    if worker.record.enabled:
        now = worker.context.clock()
        await worker.update(lambda record: machine.want_restart(_there(record), now, actor=actor))
        await until_gone(worker, instance, wait)
    left = max(0.0, deadline - asyncio.get_running_loop().time())
    return await start(worker, StartRequest(), left, actor=actor)


async def remove(worker: Worker, wait: float, *, actor: str = "system") -> bool:
    """Stop it and forget it; returns whether that was done after `wait` seconds. It is done in any case."""
    now = worker.context.clock()
    await worker.update(lambda record: machine.want_removed(record, now, actor=actor))
    deadline = asyncio.get_running_loop().time() + wait
    while not worker.removed:
        if not await worker.change(deadline):
            return False
    return True


async def until_gone(worker: Worker, instance: str | None, wait: float) -> None:
    """Wait until nothing of that instance is left, or for `wait` seconds."""
    deadline = asyncio.get_running_loop().time() + wait
    while instance is not None and worker.record.instance_id == instance and not worker.removed:
        if not await worker.change(deadline):
            return


async def sleep(worker: Worker, request: SleepRequest) -> SleepResult:
    """Stop it, or let it doze, if nobody uses it: any arrival cancels that, and so does whatever keeps it awake.

    What dozes is stopped without more ado: it is withdrawn, and nothing is in flight.
    """
    record, doze = worker.record, request.mode == "doze"
    reason = _why_not_now(worker, request)
    if reason is None and doze:
        reason = dozes.why_not(worker)
    if reason is None and record.state == "awake":
        silent = [node.node for node in await worker.context.ceryx.nodes() if node.state == "silent"]
        if silent:  # it could hide a visit, and visitors would be held in vain
            reason = f"the proxy node {silent[0]} is silent"
        else:  # once more: that took a moment
            reason = _why_not_now(worker, request) if worker.record.state == "awake" else "something else came first"
    if reason is not None:
        return SleepResult(slept=False, reason=reason)
    answer: asyncio.Future[SleepResult] = asyncio.get_running_loop().create_future()
    worker.sleeping, worker.arrived = (request, answer), False
    worker.notify()
    return await asyncio.shield(answer)


def _why_not_now(worker: Worker, request: SleepRequest) -> str | None:
    record = worker.record
    if record.state not in {"awake", "dozing"} or record.instance_id != request.instance:
        return f"it is {record.state}, or another instance"
    if worker.stop_asked or not worker.recovered:
        return "something else came first"
    # Not the totals alone: an instance that dozed for long has been forgotten by the proxies, and counts anew.
    if request.revision is not None and request.revision != worker.revision:
        return "it has changed since"
    if (kept := why_kept(record, worker.context.clock())) is not None:
        return kept
    if worker.sleeping is not None:
        return "it is about to sleep already"
    if record.state == "dozing":
        if request.mode == "doze":
            return "it dozes already"
        if worker.visit is not None or record.desired == "awake":
            return "somebody came"
    return None
