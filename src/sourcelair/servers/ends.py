"""Ending: all that runs of an instance is stopped, its end is stored, and its port is on the way to being free."""

from __future__ import annotations

from sourcelair.client.servers import Exit
from sourcelair.servers import machine
from sourcelair.servers.drivers.base import ExitStatus
from sourcelair.servers.ports import port_key
from sourcelair.servers.records import InstanceRecord, PortRecord, ServerRecord, encode
from sourcelair.servers.worker import Worker
from sourcelair.store.base import Put

FAILURE_LINES = 20
"""Lines of the log that are kept with a failure."""

MOST_OF_A_LINE = 500
"""Characters of each of them."""


async def stop(worker: Worker) -> None:
    """End all that runs of the instance; nobody can take that back."""
    record = worker.record
    instance = machine.instance_of(record)
    found = worker.found
    if found is None:
        await worker.driver.void(instance.id)
        found = await worker.driver.inspect(instance.id, instance.handle)
    by_itself = worker.exit_status() if record.drain == "exit" else None
    status = ExitStatus()
    if found is not None:
        status = await worker.driver.stop(found, record.policy.sleep.stop_grace or 0.0)
    await end(worker, by_itself or status, failure=record.failure)


async def end(worker: Worker, status: ExitStatus, failure: str | None) -> None:
    """Store that nothing of the instance is left, and set its port on the way to being free."""
    context, record = worker.context, worker.record
    instance, now = machine.instance_of(record), context.clock()
    by_itself = record.drain == "exit" and not worker.stop_asked
    reason = machine.describe_exit(status.code, status.signal, out_of_memory=status.out_of_memory)
    if not by_itself:
        reason = f"it was stopped ({record.cause})" if record.cause else "it was stopped"
    ended = Exit(
        instance=instance.id,
        reason=failure or reason,
        code=status.code,
        signal=status.signal,
        at=now,
        expected=not by_itself and failure is None,
    )
    lines = await last_lines(worker) if failure or by_itself else []
    jitter = context.jitter()
    port = PortRecord(instance=instance.id, withdrawn=context.publisher.revision(worker.hosts))

    def ended_so(record: ServerRecord) -> ServerRecord:
        if failure is not None and not worker.stop_asked:
            failed = machine.start_failed(record, failure, lines, now, jitter)
            return failed.model_copy(update={"last_exit": ended})
        return machine.gone(record, ended, lines, now, jitter)

    await worker.update(ended_so, lambda *_: ((), [Put(port_key(instance.port), encode(port))]))
    worker.forget_instance()
    context.ports.withdrawn(instance.port, port)
    context.spawn(_release(worker, instance, port), name=f"port {instance.port}")


async def _release(worker: Worker, instance: InstanceRecord, port: PortRecord) -> None:
    await worker.driver.forget(instance.id)
    await worker.context.ports.release(instance.port, port)


async def last_lines(worker: Worker) -> list[str]:
    """Return the last lines of its log, as a person may read them."""
    lines: list[str] = []
    async for part in worker.driver.logs(worker.context.log(worker.record), lines=FAILURE_LINES, follow=False):
        lines += part.decode(errors="replace").splitlines()
    return [line[:MOST_OF_A_LINE] for line in lines[-FAILURE_LINES:]]
