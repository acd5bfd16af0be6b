"""When a server is idle: pure decisions on what was seen. All times are Unix seconds."""

from __future__ import annotations

from dataclasses import dataclass

from sourcelair.client.ceryx import Activity
from sourcelair.client.servers import Server

LOOK_AGAIN = 1.0
"""Seconds until a server is looked at again that may not sleep for a reason which passes soon."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether it is idle now; if not, when to look again."""

    idle: bool
    look_at: float


def may_sleep(server: Server) -> bool:
    """Return whether idleness puts this server to sleep at all."""
    return server.state == "awake" and server.instance is not None and not server.always_on


def awake_since(server: Server) -> float:
    """Return since when an instance has been awake: an idle stop that was cancelled changes nothing about that."""
    instance = server.instance
    return server.changed_at if instance is None or instance.awake_at is None else instance.awake_at


def first_look(server: Server, idle_timeout: float) -> float:
    """Return when a server that became awake may be idle at the earliest."""
    return awake_since(server) + idle_timeout


def judge(server: Server, activity: Activity, idle_timeout: float, now: float) -> Verdict:
    """Return whether a server is idle.

    Args:
        server: as it was known before the activity was read.
        activity: of its instance, on all nodes.
        idle_timeout: seconds without activity after which it sleeps.
        now: the time.
    """
    if activity.active:
        return Verdict(idle=False, look_at=now + idle_timeout)
    last = max(activity.last_active or 0.0, awake_since(server))
    if last + idle_timeout > now:
        return Verdict(idle=False, look_at=last + idle_timeout)
    if activity.in_flight:  # of a robot: it keeps nothing awake, and loses nothing either
        return Verdict(idle=False, look_at=now + LOOK_AGAIN)
    return Verdict(idle=True, look_at=now + LOOK_AGAIN)
