"""When a server is idle, and how it then sleeps: pure decisions on what was seen. All times are Unix seconds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from sourcelair.client.ceryx import Activity
from sourcelair.client.policy import seconds
from sourcelair.client.schedules import closes_at
from sourcelair.client.servers import Server

LOOK_AGAIN = 1.0
"""Seconds until a server is looked at again that may not sleep for a reason which passes soon."""

STREAM_PAUSE = 10.0
"""Seconds until one is looked at again that could doze but for an open stream: those stay open for long."""

DAYS_AHEAD = 7
"""Days for which it is worked out how long a schedule keeps a server awake."""

Mode = Literal["stop", "doze"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """How it may sleep now (None: not now), and when to look again."""

    mode: Mode | None
    look_at: float


@dataclass(frozen=True, slots=True)
class Kept:
    """Until when it is kept awake, used or not, and by what; `until` is infinite where nobody knows."""

    until: float
    reason: str | None


def may_sleep(server: Server) -> bool:
    """Return whether idleness puts this server to sleep, or deeper to sleep, at all."""
    return server.state in {"awake", "dozing"} and server.instance is not None and not server.always_on


def awake_since(server: Server) -> float:
    """Return since when an instance has been awake: an idle stop that was cancelled changes nothing about that."""
    instance = server.instance
    return server.changed_at if instance is None or instance.awake_at is None else instance.awake_at


def kept_awake(server: Server, now: float) -> Kept:
    """Return until when it is kept awake whoever visits: by the reason that lasts longest."""
    sleep, instance = server.policy.sleep, server.instance
    if server.always_on:
        return Kept(math.inf, "always on")
    until = [Kept(now, None)]
    if (closes := closes_at(sleep.schedule, now, DAYS_AHEAD)) > now:
        until.append(Kept(closes, "schedule"))
    if instance is not None:
        until.append(Kept(instance.busy_until or 0.0, "busy"))
        until.append(Kept(instance.extended_until or 0.0, "extended"))
        until.append(Kept(awake_since(server) + (sleep.min_awake or 0.0), "just woken"))
    return max(until, key=lambda kept: kept.until)


def last_activity(server: Server, seen: float | None, active_since: float) -> float:
    """Return when it was last used. A thaw is a use: the visit that it is for may not be there yet.

    Args:
        server: the server.
        seen: the last activity that nodes report, if any does.
        active_since: what is known besides; 0 for nothing.
    """
    thawed_at = server.instance.thawed_at if server.instance is not None else None
    last = max(seen or 0.0, active_since, awake_since(server), thawed_at or 0.0)
    if server.state == "dozing" and not seen and not active_since:
        # No node remembers. It had been idle for so long when it was frozen, and maybe for longer.
        last = max(last, server.changed_at - (seconds(server.policy.sleep.doze_after) or 0.0))
    return last


def stops_at(server: Server, last: float) -> float:
    """Return when it is stopped if nobody comes, as far as idleness goes."""
    return last + (seconds(server.policy.sleep.stop_after) or math.inf)


def dozes_at(server: Server, last: float) -> float:
    """Return when it is frozen if nobody comes: never where it would be stopped by then, or is frozen."""
    sleep = server.policy.sleep
    after = seconds(sleep.doze_after) or math.inf
    if server.state == "dozing" or after >= (seconds(sleep.stop_after) or math.inf):
        return math.inf
    return last + after


def judge(server: Server, activity: Activity, now: float, active_since: float = 0.0) -> Verdict:
    """Return whether a server is idle, and how it sleeps.

    What was seen of a dozing one is what was seen before: nothing can reach it.

    Args:
        server: as it was known before the activity was read.
        activity: of its instance, on all nodes.
        now: the time.
        active_since: a use of it that nodes can't know of; 0 for none.
    """
    if not may_sleep(server):
        return Verdict(None, math.inf)
    busy = activity.active > 0
    last = now if busy else last_activity(server, activity.last_active, active_since)
    kept = kept_awake(server, now).until
    stop_at, doze_at = max(stops_at(server, last), kept), max(dozes_at(server, last), kept)
    look_at = math.inf
    # Open streams that keep nothing awake don't keep it from being stopped. Frozen, it could not answer on any.
    if stop_at > now:
        look_at = min(look_at, stop_at)
    elif activity.in_flight - activity.idle_streams > 0:  # of a robot: it keeps nothing awake, and loses nothing either
        look_at = now + LOOK_AGAIN
    else:
        return Verdict("stop", now + LOOK_AGAIN)
    if doze_at > now:
        look_at = min(look_at, doze_at)
    elif activity.in_flight > 0:
        look_at = min(look_at, now + (STREAM_PAUSE if activity.in_flight == activity.idle_streams else LOOK_AGAIN))
    else:
        return Verdict("doze", now + LOOK_AGAIN)
    return Verdict(None, look_at)


def first_look(server: Server, active_since: float, now: float) -> float:
    """Return when a server may be idle at the earliest, whatever nodes will say.

    Args:
        server: the server.
        active_since: the last use of it that is known; 0 for none.
        now: the time.
    """
    nobody = Activity(instance="", in_flight=0, active=0, streams=0, last_active=active_since or None, totals=[])
    verdict = judge(server, nobody, now, active_since)
    return verdict.look_at if verdict.mode is None else now
