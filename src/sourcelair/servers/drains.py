"""Draining: the target is withdrawn, and every registered node says what is still in flight.

An *idle* drain is for a server that nobody uses: one arrival, one changed total, or a node that does not answer in
time, and it is published again. An *explicit* one is never cancelled by visitors. What ended by itself is only
withdrawn.
"""

from __future__ import annotations

import asyncio

from sourcelair.client.ceryx import NodeTotal, Withdrawal
from sourcelair.errors import LairError
from sourcelair.servers import machine
from sourcelair.servers.worker import Interrupted, Worker

LONGEST_QUESTION = 20.0
"""Seconds of one question to Ceryx."""

PAUSE = 0.1
"""Seconds until Ceryx is asked again where it did not answer."""


async def drain(worker: Worker) -> None:
    """Drain, and go on to `stopping`; an idle drain may end in `awake` again."""
    if worker.record.drain == "idle":
        await _drain_idle(worker)
        return
    revision = await worker.publish(None)
    if worker.record.drain == "explicit":
        await _until_quiet(worker, revision)
    await _begin_stopping(worker, revision)


async def begin_explicit(worker: Worker) -> None:
    """Begin to drain for an explicit stop; its deadline is stored with it."""
    context = worker.context
    timeout = worker.record.policy.sleep.drain_timeout or 0.0
    await worker.update(lambda record: machine.begin_drain(record, "explicit", context.clock(), timeout))


async def _begin_stopping(worker: Worker, revision: int) -> None:
    await worker.update(
        lambda record: machine.begin_stopping(record, worker.context.clock()).model_copy(
            update={"route_revision": revision}
        )
    )


async def _drain_idle(worker: Worker) -> None:
    context, instance = worker.context, machine.instance_of(worker.record)
    if worker.sleeping is None:
        reason: str | None = "nobody waits for it"
    else:
        seen = worker.sleeping[0].totals
        revision = await worker.publish(None)
        try:
            state = await worker.race(
                context.ceryx.withdrawal(
                    instance.id, revision, until="acknowledged", wait=context.settings.idle_drain_timeout
                ),
                lambda: worker.arrived or worker.stop_asked or worker.exited or worker.record.always_on,
            )
            reason = why_not(state, seen)
        except Interrupted:
            reason = "it is always on" if worker.record.always_on else "somebody came"
        except LairError as error:
            reason = error.detail
    if worker.exited:
        await worker.update(lambda record: machine.begin_drain(record, "exit", context.clock(), 0))
        worker.end_sleep("it ended by itself")
    elif worker.stop_asked:
        await begin_explicit(worker)
        worker.end_sleep("an explicit stop came first")
    elif reason is None and not worker.arrived and not worker.record.always_on:
        await _begin_stopping(worker, revision)
        worker.end_sleep("idle", slept=True)
    else:
        revision = await worker.publish(instance)
        await worker.update(
            lambda record: machine.cancel_drain(record, context.clock()).model_copy(update={"route_revision": revision})
        )
        worker.end_sleep(reason or "somebody came")


def why_not(state: Withdrawal, seen: list[NodeTotal]) -> str | None:
    """Return why an idle stop must not go on; None if it may.

    Args:
        state: what every registered node said after the withdrawal.
        seen: what the sleeper saw when it found the server idle.
    """
    late = [node.node for node in state.nodes if not node.acknowledged]
    if late:
        return f"the proxy node {late[0]} does not answer"
    if any(node.in_flight for node in state.nodes):
        return "a request is in flight"
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
    while (left := (record.drain_until or 0.0) - context.clock()) > 0 and not worker.exited:
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
