"""Starting: an instance is named, stored, spawned, proven to listen and to answer, and published."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import secrets
from collections.abc import AsyncIterator, Callable

from sourcelair.client.servers import Timing
from sourcelair.errors import Unavailable
from sourcelair.servers import machine, readiness
from sourcelair.servers.changes import Interrupted
from sourcelair.servers.drains import begin_exit
from sourcelair.servers.drivers.base import ExitStatus, Found, StartFailed, StartVoided
from sourcelair.servers.ends import end
from sourcelair.servers.ports import port_key
from sourcelair.servers.records import Drain, PortRecord, ServerRecord, encode
from sourcelair.servers.reports import note_start
from sourcelair.servers.worker import Worker, log
from sourcelair.store.base import Put
from sourcelair.turns import LONGEST_TURN, Turn

PORT_TIMEOUT = 15.0
"""Seconds that a start waits for a free port."""

WARMING = 0.5
"""Seconds that an instance must have listened without an answer before that is told: a fast start writes nothing."""


async def start(worker: Worker, turn: Turn, queued: float) -> None:
    """Start an instance, and go on until it is ready, has failed, or is not wanted any more.

    Args:
        worker: of a server that rests, and may start.
        turn: that it has; it ends `LONGEST_TURN` seconds after the spawn at the latest.
        queued: milliseconds that it waited for its turn.
    """
    context, name = worker.context, f"i{secrets.token_hex(8)}"
    try:
        port, port_record = await _take_port(worker, name)
    except Interrupted:
        return
    except Unavailable as error:
        reason, worker.visit = error.detail, None
        await worker.update(lambda record: machine.not_its_fault(record, reason, context.clock()))
        return

    order = context.order(worker.record, name, port)
    timing = Timing(gate=worker.gate, queued=queued)
    log_begin = context.log_bytes(worker.record)

    def begin(record: ServerRecord) -> ServerRecord:
        wanted = worker.as_wanted(record)
        # A stop was being written while this waited, or another spec: what that wants is seen anew.
        if not machine.may_start(wanted, context.clock()) or context.order(record, name, port) != order:
            raise Interrupted
        return machine.begin_start(wanted, name, port, context.clock())

    async def store(go: Callable[[], None]) -> None:
        await worker.update(begin, lambda *_: ((), [Put(port_key(port), encode(port_record))]), stored=go)
        worker.visit, worker.log_begin = None, log_begin
        timing.stored = worker.waited()

    try:
        found = await worker.driver.start(order, store)
    except (StartFailed, StartVoided) as error:
        await end(worker, ExitStatus(), failure=str(error))
        return
    except BaseException as error:
        if worker.record.instance_id != name and not worker.doubtful:  # else its record may name it
            context.ports.give_back(port)
        if isinstance(error, Interrupted):
            return
        raise
    turn.end_after(LONGEST_TURN)
    timing.spawned = worker.waited()
    worker.watch(found)
    await become_ready(worker, timing)


async def _take_port(worker: Worker, instance: str) -> tuple[int, PortRecord]:
    """Take a port for an instance; as a rule there is one.

    Raises:
        Interrupted: it may not start any more.
        Unavailable: there was none for a while.
    """
    ports = worker.context.ports
    try:
        return ports.take(instance)
    except Unavailable:
        return await worker.race(ports.take_when_free(instance, PORT_TIMEOUT), lambda: not worker.may_start())


async def become_ready(worker: Worker, timing: Timing | None = None) -> None:
    """Wait until the instance itself listens and answers, then publish it.

    Without `timing` it is one that was adopted while it was starting, or one that stopped listening.
    """
    record, context, found = worker.record, worker.context, worker.found
    instance = machine.instance_of(record)
    if found is None:
        await begin_exit(worker)
        return
    timeout = _start_timeout(worker)
    said = [f"it did not listen on port {instance.port}"]
    try:
        async with asyncio.timeout(timeout):
            listener = await worker.race(
                readiness.until_listening(worker.driver, found, instance.port),
                lambda: worker.stop_asked or worker.exited,
            )
            if listener.local and (away := _is_elsewhere(context.settings.advertise_address)):
                await _fail(worker, f"it listens on {listener.host} only, and is visited at {away}: use 0.0.0.0")
                return
            said.append("it listens, and did not answer HTTP")
            if timing is not None:
                timing.listening = worker.waited()
            async with _telling_that_it_listens(worker):
                await worker.race(
                    readiness.until_answering(listener, worker.hosts[0], record.spec.readiness, said.append),
                    lambda: worker.stop_asked or worker.exited or worker.record.spec.readiness != record.spec.readiness,
                )
    except Interrupted:
        if not (worker.stop_asked or worker.exited):  # its user says anew when it is ready
            await become_ready(worker, timing)
            return
        kind: Drain = "explicit" if worker.stop_asked else "exit"
        await worker.update(lambda record: machine.begin_drain(record, kind, context.clock(), 0))
        return
    except TimeoutError:
        await _fail(worker, await _why_late(worker, found, said, timeout))
        return
    except Exception:
        if context.clock() - record.changed_at < timeout:
            raise  # it is tried again
        log.exception("never_ready", server=record.name, instance=instance.id)
        await _fail(worker, f"it could not be looked at for {timeout:g} s, see the log of SourceLair")
        return
    if timing is not None:
        timing.ready = worker.waited()
    host = _advertised(worker, listener.host)
    ready = instance.model_copy(update={"host": host, "pid": found.pid, "handle": found.handle})
    worker.relisten = False
    revision = await worker.publish(ready)
    if timing is not None:
        timing.published = worker.waited()
    shown = timing or record.timing
    worker.age()  # it counts from here, whatever is done to the wall clock from now on
    await worker.update(lambda record: machine.became_awake(record, ready, revision, shown, context.clock()))
    if timing is not None:
        note_start(worker, timing)
    worker.asked = None
    log.info("awake", server=record.name, instance=instance.id, **(timing.model_dump() if timing else {}))


@contextlib.asynccontextmanager
async def _telling_that_it_listens(worker: Worker) -> AsyncIterator[None]:
    """Write down that it listens, if it goes on without an answer; that write delays no start that is quick."""

    async def tell() -> None:
        await asyncio.sleep(WARMING)
        await worker.update(machine.listens)

    telling = asyncio.ensure_future(tell())
    try:
        yield
    finally:
        telling.cancel()
        await asyncio.gather(telling, return_exceptions=True)  # what it tells is a courtesy


def _start_timeout(worker: Worker) -> float:
    """Return the seconds that an instance of it has from start to ready."""
    return worker.record.spec.readiness.start_timeout or worker.context.settings.start_timeout


async def _fail(worker: Worker, reason: str) -> None:
    """End an instance that runs and does not get ready."""

    def end_it(record: ServerRecord) -> ServerRecord:
        return machine.begin_drain(record, "exit", worker.context.clock(), 0).model_copy(update={"failure": reason})

    await worker.update(end_it)


def _advertised(worker: Worker, host: str) -> str:
    """Return the address for the target: where it was seen to listen, or what other machines reach."""
    return (worker.context.settings.advertise_address or host).strip("[]")


def _is_elsewhere(address: str | None) -> str | None:
    """Return an address in targets that does not lead to what listens on loopback only; None for one that does."""
    if address is None or address == "localhost":
        return None
    try:
        return None if ipaddress.ip_address(address.strip("[]")).is_loopback else address
    except ValueError:  # a name
        return address


async def _why_late(worker: Worker, found: Found, said: list[str], timeout: float) -> str:
    others: list[int] = []
    if len(said) == 1:
        with contextlib.suppress(Exception):  # a hint only: it fails in any case
            others = await worker.driver.listening_elsewhere(found)
    where = f"; it listens on {', '.join(map(str, others))} instead: use {{port}} or $PORT" if others else ""
    return f"{said[-1]} within {timeout:g} s{where}"
