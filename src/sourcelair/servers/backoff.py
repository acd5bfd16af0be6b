"""After failed starts: how long until the next, and when nobody but a person may try again."""

from __future__ import annotations

from typing import Any

from sourcelair.servers.reasons import is_kept_awake
from sourcelair.servers.records import ServerRecord

FIRST_BACKOFF, LONGEST_BACKOFF = 1.0, 300.0
"""Seconds until a start may be tried again: after the first failure, and the longest after doubling."""

JITTER = 0.2
"""Part of a pause by which it may be shorter or longer: what failed together is not tried together."""

SHORTLY = 10.0
"""Seconds after it became awake in which an end by itself counts as a failed start."""


def backoff(failures: int, jitter: float = 0.0) -> float:
    """Return the seconds until the next try after so many failed starts in a row.

    Args:
        failures: in a row.
        jitter: from -1 to 1: how much of `JITTER` is added.
    """
    pause = min(LONGEST_BACKOFF, FIRST_BACKOFF * 2 ** min(30, failures - 1)) if failures else 0.0
    return pause * (1 + JITTER * jitter)


def held_back(record: ServerRecord, now: float) -> float:
    """Return the seconds until its start may be tried again; 0: now.

    A pause longer than any can't be: the clock was set back meanwhile.
    """
    left = (record.retry_at or 0.0) - now
    return left if 0 < left <= LONGEST_BACKOFF * (1 + JITTER) else 0.0


def failed_again(record: ServerRecord, now: float, jitter: float, *, free: int = 0) -> dict[str, Any]:
    """Return what a record says after one more failed start.

    What has failed too often waits for a person, or for another spec; what is kept awake goes on at the longest pause.

    Args:
        record: as it was before.
        now: the time.
        jitter: of the pause.
        free: failures that cost no pause.
    """
    failures = record.failures + 1
    if failures < (record.policy.wake.tries or failures + 1):
        return {"failures": failures, "retry_at": now + backoff(failures - free, jitter), "given_up": False}
    if is_kept_awake(record, now):
        pause = LONGEST_BACKOFF * (1 + JITTER * jitter)
        return {"failures": failures, "retry_at": now + pause, "given_up": False}
    return {"failures": failures, "retry_at": None, "given_up": True}


FORGOTTEN: dict[str, Any] = {"failures": 0, "retry_at": None, "given_up": False}
"""What a record says where there is nothing to hold it back any more."""
