"""The life of a server as pure functions: a record and a fact go in, the next record comes out.

::

    asleep, failed ──begin_start──▶ starting ──became_awake──▶ awake ──begin_drain──▶ draining ──▶ stopping
          ▲                            ▲                        ▲ │◀──cancel_drain──────┘ │           ▲ │
          │                            └─────begin_relisten─────┼─┘   (idle, doze)        │ (doze)    │ │
          │                                                     └──thawed── dozing ◀──begin_dozing    │ │
          │                                                                   └─────begin_stopping────┘ │
          └───────────────────────────────gone, start_failed────────────────────────────────────────────┘

What dozes is withdrawn and has nothing in flight: from there an idle stop need not drain, while an explicit one and an
exit go through `draining` like any other. `stopping` can't be taken back by anybody. Times are Unix seconds, and given
by the caller. `actor` is who brings it about, one of those that `client.servers.Server` names.
"""

from __future__ import annotations

from typing import Any

from sourcelair.client.servers import Exit, Timing
from sourcelair.servers.backoff import FIRST_BACKOFF, FORGOTTEN, SHORTLY, failed_again, held_back
from sourcelair.servers.reasons import is_kept_awake
from sourcelair.servers.records import Drain, InstanceRecord, ServerRecord

LIFETIME_OVER = "it reached its longest lifetime"
"""The cause of a stop."""


class IllegalStep(Exception):
    """A step that the state does not allow: a mistake in the program, never a user's."""


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


def want_awake(record: ServerRecord, cause: str, now: float, *, actor: str = "system") -> ServerRecord:
    """A visitor or a user wants it awake. What must not run stays as it is."""
    if not record.enabled or record.removing:
        return record
    changes: dict[str, Any] = {"desired": "awake", "stopped_at": None}
    if record.state in {"asleep", "failed", "dozing"}:
        changes |= {"cause": cause, "actor": actor}
    return _copy(record, now, **changes)


def want_another_try(record: ServerRecord, cause: str, now: float, *, actor: str) -> ServerRecord:
    """Somebody who need not wait for the back-off wants it awake, and its failures count no more."""
    if not record.enabled or record.removing:
        return record
    return _copy(want_awake(record, cause, now, actor=actor), now, **FORGOTTEN)


def want_kept(record: ServerRecord, cause: str, now: float, *, actor: str) -> ServerRecord:
    """It is to run without anybody asking, as from now: a start is tried at once, whatever it was held back for."""
    if not record.enabled or record.removing:
        return record
    return _copy(want_awake(record, cause, now, actor=actor), now, given_up=False, retry_at=None)


def want_asleep(record: ServerRecord, cause: str, now: float, *, actor: str = "system") -> ServerRecord:
    """An explicit stop of the instance that there is. A start that only waits for its turn is called off."""
    desired = "asleep" if record.enabled else "disabled"
    return _copy(
        record, now, desired=desired, stop_instance=record.instance_id, stopped_at=now, cause=cause, actor=actor
    )


def want_ended(record: ServerRecord, instance: str, cause: str, now: float, *, actor: str) -> ServerRecord:
    """An explicit stop that no user asked for, of one instance only; what is kept awake starts the next one."""
    if record.instance_id != instance or stop_asked(record) or record.state == "stopping":
        return record
    kept = is_kept_awake(record, now) and record.desired == "awake"
    desired = "asleep" if record.desired == "awake" and not kept else record.desired
    return _copy(record, now, desired=desired, stop_instance=instance, cause=cause, actor=actor)


def want_restart(record: ServerRecord, now: float, *, cause: str = "restart", actor: str = "system") -> ServerRecord:
    """An explicit stop, and another instance after it. What must not run stays as it is."""
    if not record.enabled or record.removing:
        return record
    return _copy(
        record, now, desired="awake", stop_instance=record.instance_id, stopped_at=None, cause=cause, actor=actor,
        **FORGOTTEN,
    )  # fmt: skip


def want_removed(record: ServerRecord, now: float, *, actor: str = "system") -> ServerRecord:
    """An explicit stop; it is forgotten after it."""
    stopped = want_asleep(record, "removed", now, actor=actor)
    return _copy(stopped, now, desired="disabled", removing=True)


def reconfigure(old: ServerRecord, new: ServerRecord, now: float, *, actor: str = "system") -> ServerRecord:
    """Take over what a user says in `new`; an instance that would run otherwise by now is stopped explicitly."""
    record = _copy(old, now, spec=new.spec, hosts=new.hosts, enabled=new.enabled, always_on=new.always_on)
    if old.spec != new.spec:  # it may well start now
        record = _copy(record, now, failure=None, failure_log=[], **FORGOTTEN)
        if record.state == "failed":
            record = _copy(record, now, state="asleep")
    if not new.enabled:
        record = want_asleep(record, "disabled", now, actor=actor)
    elif runs_differently(old, new) and record.instance is not None:
        record = _copy(want_asleep(record, "its spec changed", now, actor=actor), now, stopped_at=old.stopped_at)
    if new.enabled and record.desired == "disabled":
        record = _copy(record, now, desired="asleep", stopped_at=None)
    if new.enabled and new.always_on:
        record = want_awake(record, "always on", now, actor=actor)
        if not old.always_on:
            record = _copy(record, now, **FORGOTTEN)
    return record


def runs_differently(old: ServerRecord, new: ServerRecord) -> bool:
    """Return whether an instance of the old spec is none of the new one: what it runs changed, or what it may use."""
    return any(
        getattr(old.spec, name) != getattr(new.spec, name)
        for name in ("driver", "command", "directory", "env", "limits")
    )


def stop_asked(record: ServerRecord) -> bool:
    """Return whether the instance that there is has to end, whoever visits.

    One of a server that may not run at all counts too, whether or not anybody named it: it must never stay.
    """
    if record.instance is None:
        return False
    return record.stop_instance == record.instance.id or record.removing or not record.enabled


# What happens to it.


def may_start(record: ServerRecord, now: float) -> bool:
    """Return whether a start may begin now."""
    wanted = record.desired == "awake" and record.enabled and not record.removing and not record.given_up
    return record.state in {"asleep", "failed"} and wanted and not held_back(record, now)


def begin_start(record: ServerRecord, instance: str, port: int, now: float) -> ServerRecord:
    """Name the next instance. It is stored before anything is spawned."""
    if record.instance is not None:
        raise IllegalStep(f"{record.name} has the instance {record.instance.id} already")
    made = InstanceRecord(id=instance, port=port, driver=record.spec.driver, started_at=now)
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
    # What was said of the instance meanwhile stays: how long it is kept awake is no affair of a start.
    kept = instance_of(record).model_copy(
        update={"host": instance.host, "pid": instance.pid, "handle": instance.handle, "listening": False}
    )
    awake = kept.model_copy(update={"awake_at": kept.awake_at or now})
    return _copy(
        record, now, state="awake", instance=awake, route_revision=revision, timing=timing, drain=None, drain_until=None
    )


def begin_relisten(record: ServerRecord, now: float) -> ServerRecord:
    """It lives and refuses connections: the same instance again, as soon as it listens."""
    return _copy(record, now, state="starting", cause="it stopped listening", actor="instance")


def begin_drain(record: ServerRecord, kind: Drain, now: float, timeout: float) -> ServerRecord:
    """Begin to withdraw. `timeout` in seconds from now."""
    instance_of(record)
    return _copy(record, now, state="draining", drain=kind, drain_until=now + timeout)


def cancel_drain(record: ServerRecord, now: float) -> ServerRecord:
    """Somebody came: awake as before. Only the drain of what nobody uses can be cancelled."""
    if record.drain not in {"idle", "doze"}:
        raise IllegalStep(f"{record.name}: a drain of the kind {record.drain} can't be cancelled")
    return _copy(record, now, state="awake", drain=None, drain_until=None)


def begin_dozing(record: ServerRecord, now: float) -> ServerRecord:
    """Withdrawn, and nothing is in flight: it may be frozen from here on, and is wanted again by who comes."""
    if record.drain != "doze":
        raise IllegalStep(f"{record.name}: a drain of the kind {record.drain} does not end in a doze")
    desired = "asleep" if record.desired == "awake" else record.desired
    return _copy(
        record, now, state="dozing", drain=None, drain_until=None, desired=desired, cause="idle", actor="hemera"
    )


def thawed(
    record: ServerRecord, revision: int, timing: Timing | None, now: float, *, cause: str, actor: str
) -> ServerRecord:
    """The same instance runs again, and its route is published at `revision`. A stop that was asked for stays so."""
    if record.state != "dozing":
        raise IllegalStep(f"{record.name} is {record.state} and does not doze")
    instance = instance_of(record).model_copy(update={"thawed_at": now})
    changes: dict[str, Any] = {"state": "awake", "instance": instance, "route_revision": revision, "timing": timing}
    if not stop_asked(record):
        changes |= {"desired": "awake", "stopped_at": None, "cause": cause, "actor": actor}
    return _copy(record, now, **changes)


def begin_stopping(record: ServerRecord, now: float) -> ServerRecord:
    """No way back from here. What is kept awake is wanted again after an idle stop that it could not prevent.

    From `dozing` it is an idle stop.
    """
    instance_of(record)
    if record.state == "dozing":
        record = _copy(record, now, drain="idle")
    idle = record.drain == "idle" and not is_kept_awake(record, now)
    desired = "asleep" if idle and record.desired == "awake" else record.desired
    why = {"cause": "idle", "actor": "hemera"} if record.drain == "idle" else {}
    return _copy(record, now, state="stopping", desired=desired, **why)


def gone(record: ServerRecord, ended: Exit, log: list[str], now: float, jitter: float = 0.0) -> ServerRecord:
    """Nothing of the instance is left. `jitter` is that of the back-off."""
    instance = instance_of(record)
    changes: dict[str, Any] = {
        "state": "asleep", "instance": None, "stop_instance": None, "drain": None, "drain_until": None,
        "last_exit": ended,
    }  # fmt: skip
    if record.drain == "exit" and not stop_asked(record):
        started = instance.awake_at is not None
        if not started or 0 <= now - (instance.awake_at or now) < SHORTLY:
            # One that had been awake is woken by the next visit: only when it happens again is it held back.
            changes |= failed_again(record, now, jitter, free=int(started))
            changes |= {"failure": ended.reason, "failure_log": log}
            if not started or changes["given_up"]:
                changes["state"] = "failed"
        else:
            changes |= FORGOTTEN
        changes |= {"cause": ended.reason, "actor": "instance"}
        if record.desired == "awake" and not is_kept_awake(record, now):
            changes["desired"] = "asleep"
    elif record.drain != "exit":
        changes |= FORGOTTEN
    return _copy(record, now, **changes)


def start_failed(record: ServerRecord, reason: str, log: list[str], now: float, jitter: float = 0.0) -> ServerRecord:
    """Nothing could be started, or nothing is left of what was. `jitter` is that of the back-off."""
    down = "asleep" if record.desired == "awake" and not is_kept_awake(record, now) else record.desired
    return _copy(
        record, now, state="failed", instance=None, drain=None, drain_until=None, stop_instance=None,
        failure=reason, failure_log=log, cause=reason, actor="instance", desired=down,
        **failed_again(record, now, jitter),
    )  # fmt: skip


def not_its_fault(record: ServerRecord, reason: str, now: float) -> ServerRecord:
    """This machine could not start it, whatever it is: tried again soon, and its back-off does not grow."""
    failed = start_failed(record, reason, [], now)
    unchanged = {"failures": record.failures, "given_up": record.given_up}
    return failed.model_copy(update={**unchanged, "retry_at": now + FIRST_BACKOFF, "actor": "system"})


def describe_exit(code: int | None, signal: int | None, *, out_of_memory: bool = False) -> str:
    """Return one line about how an instance ended."""
    if out_of_memory:
        return "it was killed for using too much memory"
    if signal is not None:
        return f"it was killed by signal {signal}"
    return "it ended" if code is None else f"it exited with code {code}"
