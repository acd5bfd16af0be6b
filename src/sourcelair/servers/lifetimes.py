"""How long an instance may live: in real seconds, whatever is done to the wall clock meanwhile."""

from __future__ import annotations

import asyncio

from sourcelair.servers import machine
from sourcelair.servers.reasons import lifetime_left
from sourcelair.servers.worker import Worker

LONGEST_LOOK = 3600.0
"""Seconds after which a server is looked at again, even if nothing happens."""


async def live(worker: Worker) -> None:
    """Wait until something changes; when its longest lifetime is over, ask for its end."""
    context, instance = worker.context, machine.instance_of(worker.record).id
    left = lifetime_left(worker.record, worker.age())
    if left == 0:
        await worker.update(
            lambda record: machine.want_ended(record, instance, machine.LIFETIME_OVER, context.clock(), actor="policy")
        )
        return
    await worker.change(asyncio.get_running_loop().time() + min(LONGEST_LOOK, left or LONGEST_LOOK))
