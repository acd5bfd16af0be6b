"""The life of a server as pure functions: a record and a fact go in, the next record comes out.

::

    asleep, failed ──begin_start──▶ starting ──became_awake──▶ awake ──begin_drain──▶ draining ──▶ stopping
          ▲                            ▲                         │◀──cancel_drain (idle)──┘            │
          │                            └─────begin_relisten──────┘                                     │
          └───────────────────────────────gone, start_failed───────────────────────────────────────────┘

`stopping` can't be taken back by anybody. Times are Unix seconds, and given by the caller.
"""

from __future__ import annotations

from typing import Any

from sourcelair.client.servers import Exit, Timing
from sourcelair.servers.records import Drain, InstanceRecord, ServerRecord

FIRST_BACKOFF, LONGEST_BACKOFF = 1.0, 300.0
"""Seconds until a start may be tried again: after the first failure, and the longest after doubling."""

SHORTLY = 10.0
"""Seconds after it became awake in which an end by itself counts as a failed start."""


class IllegalStep(Exception):
    """A step that the state does not allow: a mistake in the program, never a user's."""


def backoff(failures: int) -> float:
    """Return the seconds until the next try after so many failed starts in a row."""
    return min(LONGEST_BACKOFF, FIRST_BACKOFF * 2 ** min(30, failures - 1)) if failures else 0.0


def _copy(record: ServerRecord, now: float, **changes: Any) -> ServerRecord:
    if changes.get("state", record.state) != record.state:
        changes["changed_at"] = now
    return record.model_copy(update=changes)


def instance_of(record: ServerRecord) -> InstanceRecord:
    """Return the instance. Raises IllegalStep if there is none."""
    if record.instance is None:
        raise IllegalStep(f"{record.name} is {record.state} and has no instance")
    return record.instance


# What users and visitors ask for.


def want_awake(record: ServerRecord, cause: str, now: float) -> ServerRecord:
    """A visitor or a user wants it awake. What must not run stays as it is."""
    if not record.enabled or record.removing:
        return record
    changes: dict[str, Any] = {"desired": "awake"}
    if record.state in {"asleep", "failed"}:
        changes["cause"] = cause
    return _copy(record, now, **changes)


def want_asleep(record: ServerRecord, cause: str, now: float) -> ServerRecord:
    """An explicit stop of the instance that there is. A start that only waits for its turn is called off."""
    desired = "asleep" if record.enabled else "disabled"
    return _copy(record, now, desired=desired, stop_instance=record.instance_id, cause=cause)


def want_restart(record: ServerRecord, now: float) -> ServerRecord:
    """An explicit stop, and another instance after it. What must not run stays as it is."""
    if not record.enabled or record.removing:
        return record
    return _copy(record, now, desired="awake", stop_instance=record.instance_id, cause="restart", retry_at=None)


def want_removed(record: ServerRecord, now: float) -> ServerRecord:
    """An explicit stop; it is forgotten after it."""
    return _copy(record, now, desired="disabled", stop_instance=record.instance_id, removing=True, cause="removed")


def reconfigure(old: ServerRecord, new: ServerRecord, now: float) -> ServerRecord:
    """Take over what a user says in `new`; an instance of another spec is stopped explicitly."""
    record = _copy(old, now, spec=new.spec, hosts=new.hosts, enabled=new.enabled, always_on=new.always_on)
    changed = old.spec != new.spec
    if changed:  # it may well start now
        record = _copy(record, now, failures=0, retry_at=None, failure=None, failure_log=[])
        if record.state == "failed":
            record = _copy(record, now, state="asleep")
    if not new.enabled:
        record = want_asleep(record, "disabled", now)
    elif changed and record.instance is not None:
        record = want_asleep(record, "its spec changed", now)
    if new.enabled and record.desired == "disabled":
        record = _copy(record, now, desired="asleep")
    if new.enabled and new.always_on:
        record = want_awake(record, "always on", now)
    return record


def stop_asked(record: ServerRecord) -> bool:
    """Return whether the instance that there is has to end, whoever visits.

    One of a server that may not run at all counts too, whether or not anybody named it: it must never stay.
    """
    if record.instance is None:
        return False
    return record.stop_instance == record.instance.id or record.removing or not record.enabled


# What happens to it.


def always_wanted(record: ServerRecord) -> bool:
    """Return whether it has to run without anybody asking: it is always on, and no user has stopped it."""
    if not record.always_on or not record.enabled or record.removing:
        return False
    return record.desired == "awake" or record.cause == "idle"


def may_start(record: ServerRecord, now: float) -> bool:
    """Return whether a start may begin now."""
    wanted = record.desired == "awake" and record.enabled and not record.removing
    return record.state in {"asleep", "failed"} and wanted and (record.retry_at is None or record.retry_at <= now)


def begin_start(record: ServerRecord, instance: str, port: int, now: float) -> ServerRecord:
    """Name the next instance. It is stored before anything is spawned."""
    if record.instance is not None:
        raise IllegalStep(f"{record.name} has the instance {record.instance.id} already")
    made = InstanceRecord(id=instance, port=port, started_at=now)
    return _copy(
        record, now, state="starting", instance=made, stop_instance=None, failure=None, failure_log=[], retry_at=None
    )


def listens(record: ServerRecord) -> ServerRecord:
    """It listens, and has not answered yet: what visitors are told while it warms up."""
    if record.state != "starting" or record.instance is None:
        return record
    return record.model_copy(update={"instance": record.instance.model_copy(update={"listening": True})})


def became_awake(
    record: ServerRecord, instance: InstanceRecord, revision: int, timing: Timing | None, now: float
) -> ServerRecord:
    """It answered, and its route is published at `revision`."""
    awake = instance.model_copy(update={"awake_at": instance.awake_at or now, "listening": False})
    return _copy(record, now, state="awake", instance=awake, route_revision=revision, timing=timing, drain=None)


def begin_relisten(record: ServerRecord, now: float) -> ServerRecord:
    """It lives and refuses connections: the same instance again, as soon as it listens."""
    return _copy(record, now, state="starting", cause="it stopped listening")


def begin_drain(record: ServerRecord, kind: Drain, now: float, timeout: float) -> ServerRecord:
    """Begin to withdraw. `timeout` in seconds from now."""
    instance_of(record)
    return _copy(record, now, state="draining", drain=kind, drain_until=now + timeout)


def cancel_drain(record: ServerRecord, now: float) -> ServerRecord:
    """Somebody came: awake as before. Only an idle drain can be cancelled."""
    if record.drain != "idle":
        raise IllegalStep(f"{record.name}: a drain of the kind {record.drain} can't be cancelled")
    return _copy(record, now, state="awake", drain=None, drain_until=None)


def begin_stopping(record: ServerRecord, now: float) -> ServerRecord:
    """No way back from here. What is always on is wanted again after an idle stop that it could not prevent."""
    instance_of(record)
    idle = record.drain == "idle" and not record.always_on
    desired = "asleep" if idle and record.desired == "awake" else record.desired
    cause = "idle" if record.drain == "idle" else record.cause
    return _copy(record, now, state="stopping", desired=desired, cause=cause)


def gone(record: ServerRecord, ended: Exit, log: list[str], now: float) -> ServerRecord:
    """Nothing of the instance is left."""
    instance = instance_of(record)
    changes: dict[str, Any] = {
        "state": "asleep", "instance": None, "stop_instance": None, "drain": None, "drain_until": None,
        "last_exit": ended,
    }  # fmt: skip
    if record.drain == "exit" and not stop_asked(record):
        started = instance.awake_at is not None
        if not started or now - (instance.awake_at or now) < SHORTLY:
            failures = record.failures + 1
            # One that had been awake is woken by the next visit: only when it happens again is it held back.
            pause = backoff(failures - started)
            changes |= {
                "failures": failures, "retry_at": now + pause, "failure": ended.reason, "failure_log": log,
            }  # fmt: skip
            if not started:
                changes["state"] = "failed"
        else:
            changes["failures"] = 0
        changes["cause"] = ended.reason
        if record.desired == "awake" and not record.always_on:
            changes["desired"] = "asleep"
    elif record.drain != "exit":
        changes["failures"] = 0
    return _copy(record, now, **changes)


def start_failed(record: ServerRecord, reason: str, log: list[str], now: float) -> ServerRecord:
    """Nothing could be started, or nothing is left of what was."""
    failures = record.failures + 1
    return _copy(
        record, now, state="failed", instance=None, drain=None, drain_until=None, stop_instance=None,
        failure=reason, failure_log=log, failures=failures, retry_at=now + backoff(failures), cause=reason,
        desired="awake" if record.always_on and record.desired == "awake" else _down(record),
    )  # fmt: skip


def not_its_fault(record: ServerRecord, reason: str, now: float) -> ServerRecord:
    """This machine could not start it, whatever it is: tried again soon, and its back-off does not grow."""
    failed = start_failed(record, reason, [], now)
    return failed.model_copy(update={"failures": record.failures, "retry_at": now + FIRST_BACKOFF})


def _down(record: ServerRecord) -> str:
    return "asleep" if record.desired == "awake" else record.desired


def describe_exit(code: int | None, signal: int | None, *, out_of_memory: bool = False) -> str:
    """Return one line about how an instance ended."""
    if out_of_memory:
        return "it was killed for using too much memory"
    if signal is not None:
        return f"it was killed by signal {signal}"
    return "it ended" if code is None else f"it exited with code {code}"
