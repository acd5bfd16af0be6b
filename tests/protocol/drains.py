"""Drains in the model: of what nobody uses, which anybody cancels, and explicit ones, which no visitor does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.protocol.actors import WAIT, ProtocolViolation, Refused, Steps
from tests.protocol.ceryx import Answer
from tests.protocol.records import Record, Sleep
from tests.protocol.sleeping import is_disturbed, is_wanted, may_be_open, must_agree

if TYPE_CHECKING:
    from tests.protocol.servers import Api


def begin_sleep(api: Api, record: Record, sleep: Sleep) -> Steps:
    """Ask the instance, before a doze too. It has to agree: no answer is a veto."""
    world, source = api.world, record.source
    if world.checks and not (world.mutation == "no check before a doze" and sleep.mode == "doze"):
        yield
        process = world.machine.instances[sleep.instance]
        answers = process.listening and not process.frozen
        sleep.checked = answers and source not in world.vetoes
        agrees = sleep.checked or (world.mutation == "no answer to the check agrees" and not answers)
        yield
        if not agrees or is_disturbed(api, record):
            del api.sleeps[source]
            return
    yield from _drain(api, record, sleep)
    if record.state != "dozing":  # who asked for a doze is answered when it is frozen
        api.sleeps.pop(source, None)


def _drain(api: Api, record: Record, sleep: Sleep) -> Steps:
    """Withdraw, and go on only if every node says that nothing is in flight and nothing came since."""
    machine, mutation = api.world.machine, api.world.mutation
    record.state, record.kind = "draining", "doze" if sleep.mode == "doze" else "idle"
    api.expired.discard(record.source)
    assert record.instance is not None
    yield
    yield from api.write(record, publish=False)
    if mutation == "freeze before all acknowledgements" and record.kind == "doze":
        machine.freeze(record.instance)
    if (yield from _all_agree(api, record, sleep)):
        if mutation == "freeze, then record it" and record.kind == "doze":
            machine.freeze(record.instance)
        if (yield from _store(api, record, sleep, "the end of a drain is stored without a look")):
            return
    yield
    if not machine.alive(record.instance):
        record.kind = "exit"
    elif record.stop:
        record.kind = "explicit"
    else:
        if mutation in {"freeze before all acknowledgements", "freeze, then record it"}:
            machine.thaw(record.instance)
        yield from api.write(record, publish=True)
        record.state, record.kind = "awake", ""
    yield


def _store(api: Api, record: Record, sleep: Sleep, mistake: str) -> Steps:
    """Store that it sleeps, on a disk that may be slow; return whether that was done.

    What comes in the way is looked at in the very step that stores it. What was on its way dies with its process.
    """
    source, incarnation = record.source, api.incarnation
    comes = is_wanted if record.state == "dozing" else is_disturbed

    def end() -> None:
        gone = record.stop or not api.world.machine.alive(sleep.instance)
        if incarnation != api.incarnation or (api.world.mutation != mistake and (gone or comes(api, record))):
            raise Refused("something came")
        must_agree(api, record, sleep)
        if api.world.checks and not sleep.checked and record.state == "draining":
            raise ProtocolViolation(f"{sleep.instance} is put to sleep, and did not agree")
        if record.state == "draining" and record.kind == "doze":
            record.state = "dozing"
        else:
            record.state, record.kind = "stopping", "idle"
            api.sleeps.pop(source, None)

    try:
        yield from api.world.call(f"store {source}", end)
    except Refused:
        return False
    return True


def _all_agree(api: Api, record: Record, sleep: Sleep) -> Steps:
    """Wait for every node; return whether the sleep may go on. What interrupts this counts, even if it is over then."""
    assert record.instance is not None
    while True:
        if is_disturbed(api, record):
            yield
            return api.world.mutation == "an interruption that is over goes on" and not is_disturbed(api, record)
        if record.source in api.expired:
            return False
        answer = api.ask(record.instance, record.route_revision)
        if answer is not None and answer.acknowledged:
            api.drained[record.source] = answer.totals
            return _is_quiet(api, answer, sleep)
        yield WAIT


def _is_quiet(api: Api, answer: Answer, sleep: Sleep) -> bool:
    most = may_be_open(api, sleep.mode, answer.streams, answer.idle_streams)
    # Equal as a whole: a generation that the sleeper did not see may hide visits of one that is gone.
    unchanged = answer.totals == sleep.totals or api.world.mutation == "stop whatever the totals"
    return answer.in_flight <= most and unchanged


def dozing(api: Api, record: Record) -> Steps:
    """Frozen, or about to be. A visit thaws, then publishes; any stop goes on at once: it is withdrawn and drained."""
    machine, source, mutation = api.world.machine, record.source, api.world.mutation
    assert record.instance is not None
    process = machine.instances[record.instance]
    sleep = api.sleeps.get(source)
    if not process.alive or record.stop:
        record.state, record.kind = "stopping", "explicit" if process.alive else "exit"
        api.sleeps.pop(source, None)
    elif is_wanted(api, record):
        if mutation != "publish before the thaw":
            machine.thaw(record.instance)
        yield
        yield from api.write(record, publish=True)
        if mutation == "publish before the thaw":
            yield from [None] * 8
            machine.thaw(record.instance)
        record.state, record.kind = "awake", ""
        api.end_calls(record)
        api.sleeps.pop(source, None)
    elif not process.freezing:
        if mutation == "a freeze outlives its sender":
            api.world.send(f"freeze {process.id} late", lambda: machine.freeze(process.id))
            while not process.freezing:
                yield WAIT
        else:
            machine.freeze(record.instance)
    elif sleep is not None and process.frozen and sleep.mode == "doze":
        del api.sleeps[source]
    elif sleep is not None and process.frozen:
        yield from _store(api, record, sleep, "a stop of what dozes is stored without a look")
    else:
        yield WAIT
        return
    yield


def draining(api: Api, record: Record) -> Steps:
    """An explicit stop, or what is left of an instance that ended by itself: visitors never cancel it."""
    assert record.instance is not None
    api.expired.discard(record.source)
    withdrawn = api.ports[record.port].withdrawn if record.port is not None else None
    if withdrawn is None:
        yield from api.write(record, publish=False)
        yield
    may_break = False
    while record.kind == "explicit" and api.world.machine.alive(record.instance):
        if record.source in api.expired:
            may_break = True
            break
        answer = api.ask(record.instance, record.route_revision)
        if answer is not None and answer.acknowledged and answer.in_flight == answer.streams:
            break
        yield WAIT
    yield
    record.state = "stopping"
    record.kind = "late" if may_break else record.kind
    yield
