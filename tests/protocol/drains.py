"""Drains in the model: of what nobody uses, which anybody cancels, and explicit ones, which no visitor does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.protocol.actors import WAIT, ProtocolViolation, Steps
from tests.protocol.ceryx import Answer
from tests.protocol.records import Record, Sleep
from tests.protocol.sleeping import kept_awake, may_be_open, must_agree

if TYPE_CHECKING:
    from tests.protocol.servers import Api


def is_newest(api: Api, record: Record, sleep: Sleep) -> bool:
    """Whether what the sleeper saw is still published, or withdrawn, by the same write.

    A doze does not change the instance, and its counts are forgotten when it dozes long: totals may look the same.
    """
    match api.world.mutation:
        case "a decision names only the instance and the totals":
            newest = record.state == "awake" or record.route_revision == sleep.revision
        case "a stop of what dozes names only the instance":
            newest = record.state == "dozing" or record.route_revision == sleep.revision
        case "a stop of what dozes compares the totals" if record.state == "dozing":
            newest = sleep.totals == api.drained.get(record.source)
        case _:
            newest = record.route_revision == sleep.revision
    return sleep.instance == record.instance and newest


def put_to_sleep(api: Api, record: Record, sleep: Sleep) -> Steps:
    """Withdraw, and go on only if every node says that nothing is in flight and nothing came since."""
    machine, source, mutation = api.world.machine, record.source, api.world.mutation
    record.state, record.kind = "draining", "doze" if sleep.mode == "doze" else "idle"
    api.expired.discard(source)
    assert record.instance is not None
    yield
    yield from api.write(record, publish=False)
    if mutation == "freeze before all acknowledgements" and record.kind == "doze":
        machine.freeze(record.instance)
    while True:
        if not machine.alive(record.instance):
            record.kind = "exit"
            return
        if record.stop:
            record.kind = "explicit"
            return
        answer = api.ask(record.instance, record.route_revision)
        if api.calls.get(source) or source in api.expired or kept_awake(api, record, at_the_end=True):
            break
        if answer is None or not answer.acknowledged:
            yield WAIT
            continue
        if not _is_quiet(api, record, answer, sleep):
            break
        if mutation == "freeze, then record it" and record.kind == "doze":
            machine.freeze(record.instance)
        yield
        if kept_awake(api, record, at_the_end=True):
            break
        if machine.alive(record.instance):
            must_agree(api, record, sleep)
            if api.world.checks and not sleep.checked:
                raise ProtocolViolation(f"{record.instance} is put to sleep, and did not agree")
            api.drained[record.source] = answer.totals
            record.state = "dozing" if record.kind == "doze" else "stopping"
        yield
        return
    yield
    if mutation in {"freeze before all acknowledgements", "freeze, then record it"}:
        machine.thaw(record.instance)
    yield from api.write(record, publish=True)
    record.state, record.kind = "awake", ""
    yield


def _is_quiet(api: Api, record: Record, answer: Answer, sleep: Sleep) -> bool:
    most = may_be_open(api, sleep.mode, answer.streams, answer.idle_streams)
    # Equal as a whole: a generation that the sleeper did not see may hide visits of one that is gone.
    unchanged = answer.totals == sleep.totals or api.world.mutation == "stop whatever the totals"
    return answer.in_flight <= most and unchanged


def dozing(api: Api, record: Record) -> Steps:
    """Frozen, or about to be. A visit thaws, then publishes; any stop goes on at once: it is withdrawn and drained."""
    machine, source, mutation = api.world.machine, record.source, api.world.mutation
    assert record.instance is not None
    process = machine.instances[record.instance]
    sleep = api.sleeps.pop(source, None)
    if not process.alive:
        record.state, record.kind = "stopping", "exit"
    elif record.stop:
        record.state, record.kind = "stopping", "explicit"
    elif api.calls.get(source) or source in api.world.windows:
        if mutation != "publish before the thaw":
            machine.thaw(record.instance)
        yield
        yield from api.write(record, publish=True)
        if mutation == "publish before the thaw":
            yield from [None] * 8
            machine.thaw(record.instance)
        record.state, record.kind = "awake", ""
        api.end_calls(record)
    elif sleep is not None and sleep.mode == "stop" and is_newest(api, record, sleep):
        must_agree(api, record, sleep)
        record.state, record.kind = "stopping", "idle"
    elif not process.freezing:
        if mutation == "a freeze outlives its sender":
            api.world.send(f"freeze {process.id} late", lambda: machine.freeze(process.id))
            while not process.freezing:
                yield WAIT
        else:
            machine.freeze(record.instance)
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
