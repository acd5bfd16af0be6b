"""Who wants a server to sleep (Hemera), and what keeps it awake: the pre-sleep check, busy, extended, windows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.protocol.actors import ProtocolViolation, Refused, Steps
from tests.protocol.records import Record, Sleep

if TYPE_CHECKING:
    from tests.protocol.servers import Api


def look(api: Api, source: str, mode: str) -> Steps:
    """Hemera finds a server idle, and asks for a doze or an idle stop with what it saw (PROTOCOL 5)."""
    record, world = api.records[source], api.world
    instance, state, revision = record.instance, record.state, record.revision
    if instance is None or not world.machine.alive(instance):
        return
    if state != "awake" and (state, mode) != ("dozing", "stop"):
        return
    yield
    counts, totals = world.ceryx.activity(instance)
    arrivals = world.machine.instances[instance].arrivals
    if counts.in_flight > may_be_open(api, mode, counts.streams, counts.idle_streams):
        return
    yield
    if world.mutation == "the revision is read after the counts":
        revision = record.revision
    sleep = Sleep(mode, instance, totals, revision, arrivals)
    world.send(f"sleep {source}", lambda: receive(api, source, sleep), lambda: api.up)


def may_be_open(api: Api, mode: str, streams: int, idle_streams: int) -> int:
    """How many of those in flight may be open: a stop cuts streams that keep nothing awake, a doze none."""
    match api.world.mutation:
        case "no stream prevents an idle stop" if mode == "stop":
            return streams
        case "doze under an idle stream":
            return idle_streams
    return idle_streams if mode == "stop" else 0


def receive(api: Api, source: str, sleep: Sleep) -> None:
    """Take what Hemera asks for. Of what is awake the nodes are looked at first, which takes a moment."""
    record = api.records[source]
    if _why_not_now(api, record, sleep):
        return
    if record.state == "dozing":
        _accept(api, source, sleep)
    else:
        api.actors.append(api.world.spawn(f"accept {source}", _look_at_nodes(api, source, sleep)))


def _look_at_nodes(api: Api, source: str, sleep: Sleep) -> Steps:
    yield
    record = api.records[source]
    if record.state == "awake" and not _why_not_now(api, record, sleep):
        _accept(api, source, sleep)


def _accept(api: Api, source: str, sleep: Sleep) -> None:
    api.sleeps[source] = sleep
    api.arrived.discard(source)


def _why_not_now(api: Api, record: Record, sleep: Sleep) -> bool:
    """Whether it is refused at once."""
    source = record.source
    if record.state not in {"awake", "dozing"} or record.instance != sleep.instance:
        return True
    if record.stop or source not in api.recovered or source in api.sleeps:
        return True
    if not _is_newest(api, record, sleep) or kept_awake(api, record):
        return True
    return record.state == "dozing" and (sleep.mode == "doze" or bool(api.calls.get(source)))


def _is_newest(api: Api, record: Record, sleep: Sleep) -> bool:
    """Whether the record is still the one that the sleeper knew before it read the counts.

    A doze does not change the instance, and its counts are forgotten when it dozes long: totals may look the same.
    """
    newest = record.revision == sleep.revision
    match api.world.mutation:
        case "a decision names only the instance and the totals":
            return record.state == "awake" or newest
        case "a stop of what dozes names only the instance":
            return record.state == "dozing" or newest
        case "a stop of what dozes compares the totals" if record.state == "dozing":
            return sleep.totals == api.drained.get(record.source)
    return newest


def keep(api: Api, source: str, what: str, instance: str | None) -> None:
    """`busy` of an instance or `extended` by a user; whoever is told that it is done can rely on it. Raises Refused."""
    record = api.records[source]
    if instance is None or record.instance != instance:
        raise Refused("another instance")
    drains = record.state == "draining" and record.kind in {"idle", "doze"}
    busy = what == "busy" and record.state in {"starting", "dozing"}
    if record.stop or not (record.state == "awake" or drains or busy):
        raise Refused(record.state)
    record.kept = record.kept | {what}


def in_window(api: Api, record: Record) -> bool:
    """Whether its schedule wants it awake now, and no user has stopped it since that began."""
    return record.source in api.world.windows and not record.held_down


def kept_awake(api: Api, record: Record, *, at_the_end: bool = False) -> bool:
    """Whether anything keeps it awake. It is looked at when a drain begins, and again in the step that ends it."""
    if at_the_end and api.world.mutation == "what keeps it awake is not looked at again":
        return False
    window = record.source in api.world.windows
    if at_the_end and api.world.mutation == "a window that opens is not looked at again":
        window = False
    return bool(record.kept) or window


def is_disturbed(api: Api, record: Record) -> bool:
    """Whether anything came in the way of a sleep that is under way."""
    gone = record.stop or not api.world.machine.alive(record.instance or "")
    return gone or record.source in api.arrived or kept_awake(api, record, at_the_end=True)


def is_wanted(api: Api, record: Record) -> bool:
    """Whether anybody wants what dozes to be awake."""
    return bool(api.calls.get(record.source)) or kept_awake(api, record)


def must_agree(api: Api, record: Record, sleep: Sleep) -> None:
    """The promise: nobody came since it was found idle, and nothing keeps it awake."""
    if record.kept or record.source in api.world.windows:
        raise ProtocolViolation(f"{record} is put to sleep, and kept awake")
    if api.calls.get(record.source):
        raise ProtocolViolation(f"{record} is put to sleep, and somebody waits for it")
    process = api.world.machine.instances[sleep.instance]
    if process.arrivals != sleep.arrivals:
        raise ProtocolViolation(f"{sleep.mode} of {process.id}, visited since it was found idle")
