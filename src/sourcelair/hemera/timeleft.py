"""How long a server stays awake if nobody comes: pure. All times are Unix seconds."""

from __future__ import annotations

import math

from pydantic import BaseModel, Field

from sourcelair.client.ceryx import Activity
from sourcelair.client.servers import Server
from sourcelair.hemera.idleness import dozes_at, kept_awake, last_activity, stops_at

IN_USE = "a request or stream is open"
NEVER = "it never sleeps"


class TimeLeft(BaseModel):
    """How long a server stays awake if nobody comes.

    `sleeps_at` is when it is stopped: null while it is not up, or where nobody can say, and then `reason` says why.
    Beside a time, `reason` is what keeps it awake for longer than its visitors do: `busy`, `extended`, `schedule`, or
    `just woken`.
    """

    state: str = Field(description="As of the server; `unknown-host` where there is none.")
    sleeps_at: float | None = Field(None, description="When it is stopped, in Unix seconds.")
    seconds_left: float | None = Field(None, description="Until then.")
    warning: bool = Field(False, description="Whether that is soon: within `warn_before`.")
    reason: str | None = Field(None, description="Why nobody can say, or what keeps it awake.")
    dozes_at: float | None = Field(None, description="When it is frozen in memory before: a visit thaws it at once.")


def time_left(server: Server, activity: Activity | None, now: float) -> TimeLeft:
    """Return how long it stays awake.

    Args:
        server: the server.
        activity: of its instance; None where it has none.
        now: the time.
    """
    if server.state not in {"awake", "dozing"} or activity is None:
        return TimeLeft(state=server.state)
    kept = kept_awake(server, now)
    if kept.until == math.inf:
        return TimeLeft(state=server.state, reason=kept.reason)
    if activity.active > 0:
        return TimeLeft(state=server.state, reason=IN_USE)
    last = last_activity(server, activity.last_active, 0.0)
    stop_at, doze_at = stops_at(server, last), max(dozes_at(server, last), kept.until)
    shown_doze = None if doze_at == math.inf or activity.in_flight else doze_at
    if stop_at == math.inf:
        return TimeLeft(state=server.state, reason=NEVER, dozes_at=shown_doze)
    sleeps_at = max(stop_at, kept.until, now)
    left, warn_before = sleeps_at - now, server.policy.sleep.warn_before or 0.0
    return TimeLeft(
        state=server.state,
        sleeps_at=round(sleeps_at, 3),
        seconds_left=round(left, 3),
        warning=0 < warn_before >= left and server.state == "awake",
        reason=kept.reason if kept.until > stop_at else None,
        dozes_at=shown_doze,
    )
