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
    instance, state, revision = record.instance, record.state, record.route_revision
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
    """Take what Hemera asks for. The instance may have a word, before a doze too: one that dozes can't be asked."""
    if api.world.checks and api.records[source].state == "awake":
        api.actors.append(api.world.spawn(f"check {source}", _check(api, source, sleep)))
    else:
        api.sleeps[source] = sleep


def _check(api: Api, source: str, sleep: Sleep) -> Steps:
    """Ask the instance. It has to agree: no answer is a veto too."""
    yield
    process = api.world.machine.instances[sleep.instance]
    answers = process.listening and not process.frozen
    sleep.checked = answers and source not in api.world.vetoes
    yield
    if sleep.checked or (api.world.mutation == "no answer to the check agrees" and not answers):
        api.sleeps[source] = sleep


def keep(api: Api, source: str, what: str, instance: str | None) -> None:
    """`busy` of an instance or `extended` by a user; whoever is told that it is done can rely on it. Raises Refused."""
    record = api.records[source]
    if instance is None or record.instance != instance:
        raise Refused("another instance")
    if record.state not in {"starting", "awake"} and not (
        record.state == "draining" and record.kind in {"idle", "doze"}
    ):
        raise Refused(record.state)
    record.kept.add(what)


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


def must_agree(api: Api, record: Record, sleep: Sleep) -> None:
    """The promise: nobody came since it was found idle, and nothing keeps it awake."""
    if record.kept or record.source in api.world.windows:
        raise ProtocolViolation(f"{record} is put to sleep, and kept awake")
    process = api.world.machine.instances[sleep.instance]
    if process.arrivals != sleep.arrivals:
        raise ProtocolViolation(f"{sleep.mode} of {process.id}, visited since it was found idle")
