"""Why a server is awake though nobody uses it, or has to end though somebody does: pure, times in Unix seconds."""

from __future__ import annotations

from sourcelair.client.policy import seconds
from sourcelair.client.schedules import is_open, opened_at
from sourcelair.servers.records import ServerRecord


def is_kept_awake(record: ServerRecord, now: float) -> bool:
    """Return whether it is to run without anybody asking: it is always on, or its schedule says so now."""
    return record.always_on or is_open(record.policy.sleep.schedule, now)


def why_running(record: ServerRecord, now: float) -> str | None:
    """Return why it has to run right now though nobody uses it; None where nothing says so."""
    instance = record.instance
    if record.always_on:
        return "it is always on"
    if is_open(record.policy.sleep.schedule, now):
        return "its schedule keeps it awake now"
    if instance is not None and (instance.busy_until or 0.0) > now:
        return "it says that it is busy"
    if instance is not None and (instance.extended_until or 0.0) > now:
        return "somebody asked to keep it awake"
    return None


def why_kept(record: ServerRecord, now: float) -> str | None:
    """Return why one that is awake may neither be stopped nor frozen while nobody uses it; None where it may."""
    least, instance = record.policy.sleep.min_awake or 0.0, record.instance
    if (reason := why_running(record, now)) is not None:
        return reason
    if instance is not None and instance.awake_at is not None and instance.awake_at + least > now:
        return f"it stays awake for {least:g} s at least"
    return None


def is_due(record: ServerRecord, now: float) -> str | None:
    """Return which of `always on` and `schedule` wants a start that nobody has asked for yet; None: neither.

    A user's stop holds: for what is always on until somebody wants it again, for a schedule until it opens again.
    """
    if not record.enabled or record.removing or (record.desired == "awake" and not record.given_up):
        return None
    if record.always_on and record.cause == "idle":
        return "always on"
    opened = opened_at(record.policy.sleep.schedule, now)
    if opened is not None and (record.stopped_at is None or record.stopped_at < opened):
        return "schedule"
    return None


def lifetime_left(record: ServerRecord, age: float) -> float | None:
    """Return the seconds until its instance has to end, used or not; None where it may live as long as it likes.

    Args:
        record: of a server that is awake, or dozes.
        age: seconds for which its instance has been awake, whatever the wall clock says.
    """
    longest = seconds(record.policy.sleep.max_lifetime)
    return None if longest is None else max(0.0, longest - age)
