"""Draining: the target is withdrawn, and every registered node says what is still in flight.

An *idle* drain, or one for a *doze*, is for a server that nobody uses: one arrival, one changed total, whatever keeps
it awake, or a node that does not answer in time, and it is published again. An *explicit* one is never cancelled by
visitors. What ended by itself is only withdrawn.
"""

from __future__ import annotations

import asyncio
import contextlib

from sourcelair.client.ceryx import NodeTotal, Withdrawal
from sourcelair.errors import LairError
from sourcelair.servers import machine
from sourcelair.servers.changes import Interrupted
from sourcelair.servers.reasons import why_kept
from sourcelair.servers.records import ServerRecord
from sourcelair.servers.worker import Worker

LONGEST_QUESTION = 20.0
"""Seconds of one question to Ceryx."""

PAUSE = 0.1
"""Seconds until Ceryx is asked again where it did not answer."""


async def drain(worker: Worker) -> None:
    """Drain, and go on to `stopping` or `dozing`; one of what nobody uses may end in `awake` again."""
    if worker.record.drain in {"idle", "doze"}:
        await _drain_unused(worker)
        return
    revision = await worker.publish(None)
    if worker.record.drain == "explicit":
        await _until_quiet(worker, revision)
    await _begin_stopping(worker, revision)


async def begin_explicit(worker: Worker) -> None:
    """Begin to drain for an explicit stop; its deadline is stored with it. What dozes has nothing to wait for."""
    context = worker.context
    drained = worker.record.state == "dozing" and worker.published is None
    timeout = 0.0 if drained else worker.record.policy.sleep.drain_timeout or 0.0
    await worker.update(lambda record: machine.begin_drain(record, "explicit", context.clock(), timeout))


async def begin_exit(worker: Worker) -> None:
    """Begin to withdraw an instance that ended by itself: it has nothing to wait for."""
    await worker.update(lambda record: machine.begin_drain(record, "exit", worker.context.clock(), 0))


async def _begin_stopping(worker: Worker, revision: int) -> None:
    await worker.update(
        lambda record: machine.begin_stopping(record, worker.context.clock()).model_copy(
            update={"route_revision": revision}
        )
    )


async def _drain_unused(worker: Worker) -> None:
    context, instance = worker.context, machine.instance_of(worker.record)
    revision, reason = await _withdraw(worker)
    if reason is None:
        with contextlib.suppress(Interrupted):
            await _end_unused(worker, revision)
            return
        reason = _what_came(worker)
    if worker.exited:
        await begin_exit(worker)
    elif worker.stop_asked:
        await begin_explicit(worker)
    else:
        revision = await worker.publish(instance)
        await worker.update(
            lambda record: machine.cancel_drain(record, context.clock()).model_copy(update={"route_revision": revision})
        )
    worker.end_sleep(reason)


async def _withdraw(worker: Worker) -> tuple[int, str | None]:
    """Withdraw it; returns the revision, and why its sleep must not go on (None: every node agrees)."""
    context, record = worker.context, worker.record
    if worker.sleeping is None:
        return 0, "nobody waits for it"
    request, instance = worker.sleeping[0], machine.instance_of(record).id
    revision = await worker.publish(None)
    try:
        state = await worker.race(
            context.ceryx.withdrawal(
                instance, revision, until="acknowledged", wait=context.settings.idle_drain_timeout
            ),
            lambda: is_disturbed(worker),
        )
        reason = why_not(state, request.totals, doze=record.drain == "doze")
        if reason is None and record.policy.sleep.streams == "flow":
            (now,) = await worker.race(context.ceryx.activity([instance]), lambda: is_disturbed(worker))
            if (now.last_active or 0.0) > (request.last_active or 0.0):
                reason = "somebody used it meanwhile"
    except Interrupted:
        return revision, _what_came(worker)
    except LairError as error:
        return revision, error.detail
    return revision, reason


async def _end_unused(worker: Worker, revision: int) -> None:
    """Store that it sleeps.

    Raises:
        Interrupted: something came in the way before that was stored. What is looked at here is what is stored last:
            whoever was told that it is kept awake finds it so.
    """
    doze, clock = worker.record.drain == "doze", worker.context.clock

    def ended(record: ServerRecord) -> ServerRecord:
        if is_disturbed(worker):
            raise Interrupted
        slept = machine.begin_dozing(record, clock()) if doze else machine.begin_stopping(record, clock())
        return slept.model_copy(update={"route_revision": revision})

    await worker.update(ended)
    if not doze:  # who waits for a doze is answered once it is frozen
        worker.end_sleep("idle", slept=True)


def is_disturbed(worker: Worker) -> bool:
    """Return whether anything came in the way of its sleep."""
    if worker.arrived or worker.stop_asked or worker.exited:
        return True
    return why_kept(worker.record, worker.context.clock()) is not None


def _what_came(worker: Worker) -> str:
    """Return what came in the way; that may be over by now, and counts all the same."""
    if worker.exited:
        return "it ended by itself"
    if worker.stop_asked:
        return "an explicit stop came first"
    return why_kept(worker.record, worker.context.clock()) or "somebody came"


def why_not(state: Withdrawal, seen: list[NodeTotal], *, doze: bool = False) -> str | None:
    """Return why a sleep must not go on; None if it may.

    Args:
        state: what every registered node said after the withdrawal.
        seen: what the sleeper saw when it found the server idle.
        doze: it is to be frozen: then nothing may be open. A stop only cuts streams that keep nothing awake.
    """
    late = [node.node for node in state.nodes if not node.acknowledged]
    if late:
        return f"the proxy node {late[0]} does not answer"
    if any((node.in_flight or 0) > (0 if doze else node.idle_streams or 0) for node in state.nodes):
        return "a request is in flight"
    if any(node.flowing for node in state.nodes):
        return "bytes flow on an open stream"
    # Equal as a whole: a generation that the sleeper did not see may hide visits of one that is gone.
    # Robots that came and went are no visits: else one that comes often would keep it awake for ever.
    now = {(node.node, node.generation): (node.total or 0) - (node.robots or 0) for node in state.nodes}
    if now != {(total.node, total.generation): total.total - total.robots for total in seen}:
        return "somebody visited it meanwhile"
    return None


async def _until_quiet(worker: Worker, revision: int) -> None:
    """Wait until nothing but streams is in flight, the time is over, or the instance ended."""
    record, context = worker.record, worker.context
    instance = machine.instance_of(record)
    loop = asyncio.get_running_loop()
    # As much as is left of it after a crash, and never longer than was stored: the wall clock may be set meanwhile.
    longest = record.policy.sleep.drain_timeout or 0.0
    end = loop.time() + min(longest, (record.drain_until or 0.0) - context.clock())
    while (left := end - loop.time()) > 0 and not worker.exited:
        try:
            state = await worker.race(
                context.ceryx.withdrawal(instance.id, revision, until="quiet", wait=min(left, LONGEST_QUESTION)),
                lambda: worker.exited,
            )
        except Interrupted:
            return
        except LairError:
            await asyncio.sleep(min(left, PAUSE))
            continue
        if state.drained_but_streams:
            return
