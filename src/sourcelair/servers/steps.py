"""The steps of a worker, by the state of its server: each looks, does one thing, and stores what is true then."""

from __future__ import annotations

import asyncio
import secrets
import time

from sourcelair.client.servers import Exit, Timing
from sourcelair.errors import Unavailable
from sourcelair.servers import machine, readiness
from sourcelair.servers.drains import drain
from sourcelair.servers.drivers.base import ExitStatus, Found, StartFailed, StartVoided
from sourcelair.servers.drivers.process import logs
from sourcelair.servers.ports import port_key
from sourcelair.servers.records import HOSTS, Drain, InstanceRecord, PortRecord, ServerRecord, encode
from sourcelair.servers.worker import Interrupted, Worker, log
from sourcelair.store.base import Delete, Put

FAILURE_LINES = 20
"""Lines of the log that are kept with a failure."""

PORT_TIMEOUT = 15.0
"""Seconds that a start waits for a free port."""

MOST_OF_A_LINE = 500
"""Characters of each of them."""


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
    if record.state in {"stopping", "asleep", "failed"} or (record.state == "draining" and record.drain != "idle"):
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
    if record.removing:
        await _remove(worker)
    elif machine.may_start(record, context.clock()):
        try:
            await worker.race(context.slots.acquire(), lambda: not machine.may_start(worker.record, context.clock()))
        except Interrupted:
            return
        try:
            await _start(worker, _ms_since(worker.asked_at))
        finally:
            context.slots.release()
    else:
        left = (record.retry_at or 0.0) - context.clock()
        await worker.change(asyncio.get_running_loop().time() + max(0.0, left))


def _ms_since(start: float) -> float:
    return (time.monotonic() - start) * 1000


async def _start(worker: Worker, queued: float) -> None:
    context, name = worker.context, f"i{secrets.token_hex(8)}"
    try:
        port, port_record = await worker.race(
            context.ports.take_when_free(name, PORT_TIMEOUT),
            lambda: not machine.may_start(worker.record, context.clock()),
        )
    except Interrupted:
        return
    except Unavailable as error:
        reason = error.detail
        await worker.update(lambda record: machine.not_its_fault(record, reason, context.clock()))
        return
    try:
        await worker.update(
            lambda record: machine.begin_start(record, name, port, context.clock()),
            [Put(port_key(port), encode(port_record))],
        )
    except BaseException:
        context.ports.give_back(port)
        raise
    timing = Timing(gate=worker.gate, queued=queued, stored=_ms_since(worker.asked_at))
    try:
        found = await worker.driver.start(context.order(worker.record, name, port))
    except (StartFailed, StartVoided) as error:
        await _end(worker, ExitStatus(), failure=str(error))
        return
    timing.spawned = _ms_since(worker.asked_at)
    worker.watch(found)
    await become_ready(worker, timing)


async def become_ready(worker: Worker, timing: Timing | None = None) -> None:
    """Wait until the instance itself listens and answers, then publish it.

    Without `timing` it is one that was adopted while it was starting, or one that stopped listening.
    """
    record, context, found = worker.record, worker.context, worker.found
    instance = machine.instance_of(record)
    if found is None:
        await worker.update(lambda record: machine.begin_drain(record, "exit", context.clock(), 0))
        return
    timeout = record.spec.readiness.start_timeout or context.settings.start_timeout
    said = [f"it did not listen on port {instance.port}"]
    try:
        async with asyncio.timeout(timeout):
            listener = await worker.race(
                readiness.until_listening(worker.driver, found, instance.port),
                lambda: worker.stop_asked or worker.exited,
            )
            said.append("it listens, and did not answer HTTP")
            if timing is not None:
                timing.listening = _ms_since(worker.asked_at)
            await worker.race(
                readiness.until_answering(listener, worker.hosts[0], record.spec.readiness, said.append),
                lambda: worker.stop_asked or worker.exited,
            )
    except Interrupted:
        kind: Drain = "explicit" if worker.stop_asked else "exit"
        await worker.update(lambda record: machine.begin_drain(record, kind, context.clock(), 0))
        return
    except TimeoutError:
        reason = await _why_late(worker, found, said, timeout)
        await worker.update(
            lambda record: machine.begin_drain(record, "exit", context.clock(), 0).model_copy(
                update={"failure": reason}
            )
        )
        return
    if timing is not None:
        timing.ready = _ms_since(worker.asked_at)
    host = _advertised(worker, listener.host)
    ready = instance.model_copy(update={"host": host, "pid": found.pid, "handle": found.handle})
    worker.relisten = False
    revision = await worker.publish(ready)
    if timing is not None:
        timing.published = _ms_since(worker.asked_at)
    shown = timing or record.timing
    await worker.update(lambda record: machine.became_awake(record, ready, revision, shown, context.clock()))
    log.info("awake", server=record.name, instance=instance.id, **(timing.model_dump() if timing else {}))


def _advertised(worker: Worker, host: str) -> str:
    """Return the address for the target: where it was seen to listen, or what other machines reach."""
    return worker.context.settings.advertise_address or host


async def _why_late(worker: Worker, found: Found, said: list[str], timeout: float) -> str:
    others = await worker.driver.listening_elsewhere(found) if len(said) == 1 else []
    where = f"; it listens on {', '.join(map(str, others))} instead: use {{port}} or $PORT" if others else ""
    return f"{said[-1]} within {timeout:g} s{where}"


async def stay_awake(worker: Worker) -> None:
    """Wait for whatever ends this."""
    context, now = worker.context, worker.context.clock()
    if worker.stop_asked:
        policy = worker.record.spec.sleep.drain_timeout
        timeout = context.settings.drain_timeout if policy is None else policy
        await worker.update(lambda record: machine.begin_drain(record, "explicit", now, timeout))
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


async def stop(worker: Worker) -> None:
    """End all that runs of the instance; nobody can take that back."""
    record, settings = worker.record, worker.context.settings
    instance = machine.instance_of(record)
    found = worker.found
    if found is None:
        await worker.driver.void(instance.id)
        found = await worker.driver.inspect(instance.id, instance.handle)
    policy = record.spec.sleep.stop_grace
    by_itself = worker.exit_status() if record.drain == "exit" else None
    status = ExitStatus()
    if found is not None:
        status = await worker.driver.stop(found, settings.stop_grace if policy is None else policy)
    await _end(worker, by_itself or status, failure=record.failure)


async def _end(worker: Worker, status: ExitStatus, failure: str | None) -> None:
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
    port = PortRecord(instance=instance.id, withdrawn=context.publisher.revision(worker.hosts))

    def end(record: ServerRecord) -> ServerRecord:
        if failure is not None and not worker.stop_asked:
            failed = machine.start_failed(record, failure, lines, now)
            return failed.model_copy(update={"last_exit": ended})
        return machine.gone(record, ended, lines, now)

    await worker.update(end, [Put(port_key(instance.port), encode(port))])
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


async def _remove(worker: Worker) -> None:
    """Forget the server: its routes first, so that a crash between leaves what says that it is to be removed."""
    record, context = worker.record, worker.context
    await context.publisher.remove(worker.hosts)
    operations = [Delete(record.key), *(Delete(f"{HOSTS}{host}") for host in record.hosts)]
    await context.store.transact([], operations)
    await asyncio.to_thread(logs.remove, context.log(record))
    worker.removed = True
    context.removed(record)
    worker.notify()
    log.info("removed", server=record.name)
