"""When a schedule is open: windows on the wall clocks of time zones, as Unix seconds.

A window goes from the first moment at which its clock shows its start to the last at which it shows its end: an hour
that the clock repeats is in it whole, and a time that it skips counts as that long after the last one before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from sourcelair.client.policy import Window

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")

DAY = 24 * 60
"""Minutes."""


def is_open(windows: Sequence[Window] | None, now: float) -> bool:
    """Return whether any window is open at a time."""
    return opened_at(windows, now) is not None


def opened_at(windows: Sequence[Window] | None, now: float) -> float | None:
    """Return when the newest of the windows began that are open at a time; None where none is."""
    return max((start for start, end in _around(windows, now, 0) if start <= now < end), default=None)


def next_change(windows: Sequence[Window] | None, now: float) -> float | None:
    """Return the next time after `now` at which a window begins or ends; None where there is none."""
    edges = (edge for spell in _around(windows, now, 8) for edge in spell if edge > now)
    return min(edges, default=None)


def closes_at(windows: Sequence[Window] | None, now: float, days: int) -> float:
    """Return when all windows that are open at a time, or begin before those end, have ended.

    That is `now` where none is open, and so many days later at the latest.
    """
    end = now
    for start, stop in sorted(_around(windows, now, days)):
        if start > end:
            break
        end = max(end, stop)
    return min(end, now + days * 86400)


def _around(windows: Sequence[Window] | None, now: float, days: int) -> Iterator[tuple[float, float]]:
    """Give the spells of all windows that begin from two days before until some days after, unsorted."""
    for window in windows or ():
        today = datetime.fromtimestamp(now, _zone(window.timezone)).date()
        # A start of 24:00 is the next day's, and its window may go on until the end of that.
        for ahead in range(-2, days + 1):
            day = today + timedelta(days=ahead)
            if DAYS[day.weekday()] in window.days:
                yield _spell(window.start, window.end, window.timezone, day)


@lru_cache(maxsize=1000)
def _zone(name: str) -> ZoneInfo:
    return ZoneInfo(name)  # which keeps few, and reads the file of any other again


@lru_cache(maxsize=20_000)
def _spell(begins: str, ends: str, timezone: str, day: date) -> tuple[float, float]:
    """Return when a window begins that starts on a day, and when it ends. Thousands of servers ask for the same."""
    zone = _zone(timezone)
    start, end = _minutes(begins), _minutes(ends)
    if end <= start:
        end += DAY
    return _at(day, start, zone, fold=0), _at(day, end, zone, fold=1)


def _minutes(clock: str) -> int:
    hours, _, minutes = clock.partition(":")
    return int(hours) * 60 + int(minutes)


def _at(day: date, minutes: int, zone: ZoneInfo, *, fold: int) -> float:
    """Return when a zone's clock shows so many minutes after the midnight of a day; `fold` 1 is the second time."""
    days, minutes = divmod(minutes, DAY)
    hour, minute = divmod(minutes, 60)
    shown = datetime.combine(day + timedelta(days=days), time(hour, minute), zone)
    first = shown.replace(fold=0)
    # A time that is skipped has no second time: `fold` would then mean another reading of it.
    exists = first.astimezone(UTC).astimezone(zone).replace(tzinfo=None, fold=0) == first.replace(tzinfo=None)
    return shown.replace(fold=fold if exists else 0).timestamp()
