"""What keeps a server awake though nobody visits: somebody asks for it, or the app itself says that it is busy.

Both are facts about one instance, and end with it. They are on disk before they are acknowledged.
"""

from __future__ import annotations

from typing import Literal

from sourcelair.client.servers import Server
from sourcelair.errors import Conflict, NotFound
from sourcelair.servers import machine
from sourcelair.servers.records import InstanceRecord, ServerRecord
from sourcelair.servers.worker import Worker

SOON = 1.0
"""Seconds by which what is stored may fall short of what was asked: an app may say that it is busy again and again."""


async def extend(worker: Worker, seconds: float) -> Server:
    """Keep it awake for so many seconds from now; 0 takes that back. It never ends sooner than was asked before.

    Raises:
        NotFound: it is being removed.
        Conflict: it sleeps, or is about to end: there is nothing to keep awake.
    """
    now = worker.context.clock()

    def change(record: ServerRecord) -> ServerRecord:
        if record.removing:
            raise NotFound(f"No server found for {record.name}.")
        instance = record.instance
        drained = record.state == "draining" and record.drain in {"idle", "doze"}
        if instance is None or machine.stop_asked(record) or not (record.state == "awake" or drained):
            shown = "its last start failed" if record.state == "failed" else f"it is {record.state}"
            raise Conflict(f"{record.name} is not awake ({shown}): there is nothing to keep awake.", state=record.state)
        until = max(now + seconds, instance.extended_until or 0.0) if seconds else None
        return _until(record, instance, "extended_until", until)

    await worker.update(change)
    return worker.show()


async def busy(worker: Worker, instance_id: str, seconds: float) -> float | None:
    """Take over what an instance says of itself: busy for so many seconds from now, or not any more.

    Returns:
        until when that counts, in Unix seconds.

    Raises:
        NotFound: this is not the server's instance any more.
        Conflict: it is being stopped already.
    """
    now = worker.context.clock()

    def change(record: ServerRecord) -> ServerRecord:
        instance = record.instance
        if instance is None or instance.id != instance_id:
            raise no_server(instance_id)
        ending = record.state == "stopping" or (record.state == "draining" and record.drain in {"explicit", "exit"})
        if ending or machine.stop_asked(record):
            raise Conflict(f"{record.name} is being stopped already: nothing keeps it awake.", state=record.state)
        return _until(record, instance, "busy_until", now + seconds if seconds else None)

    await worker.update(change)
    return worker.record.instance.busy_until if worker.record.instance else None


def no_server(instance: str) -> NotFound:
    """Return the error for an instance that no server has, or has any more."""
    return NotFound(f"No server has the instance {instance} any more.")


def _until(
    record: ServerRecord, instance: InstanceRecord, name: Literal["busy_until", "extended_until"], until: float | None
) -> ServerRecord:
    before = getattr(instance, name)
    if until is not None and before is not None and 0 <= until - before < SOON:
        return record  # nothing is written for that
    return record.model_copy(update={"instance": instance.model_copy(update={name: until})})
