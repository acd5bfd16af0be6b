"""Schedules: windows of the week on the wall clock of a time zone, also where that clock jumps."""

from __future__ import annotations

from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from sourcelair.client.policy import Window
from sourcelair.client.schedules import DAYS, closes_at, is_open, next_change, opened_at

ZONES = ["UTC", "Europe/Athens", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "Pacific/Apia"]
HOUR = 3600.0


def at(text: str, zone: str = "UTC", fold: int = 0) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold).timestamp()


def window(days: str, start: str, end: str, zone: str = "UTC") -> Window:
    return Window(days=days.split(), start=start, end=end, timezone=zone)  # type: ignore[arg-type]


OFFICE = [window("mon tue wed thu fri", "09:00", "17:00", "Europe/Athens")]


@pytest.mark.parametrize(
    ("when", "is_so"),
    [
        ("2026-11-25T08:59:59", False),  # a Wednesday
        ("2026-11-25T09:00:00", True),
        ("2026-11-25T16:59:59", True),
        ("2026-11-25T17:00:00", False),
        ("2026-11-28T12:00:00", False),  # a Saturday
    ],
)
def test_office_hours(when: str, is_so: bool) -> None:
    now = at(when, "Europe/Athens")
    assert is_open(OFFICE, now) is is_so
    assert opened_at(OFFICE, now) == (at("2026-11-25T09:00:00", "Europe/Athens") if is_so else None)


@pytest.mark.parametrize(
    ("days", "start", "end", "when", "is_so"),
    [
        ("fri", "22:00", "02:00", "2026-11-28T01:59:59", True),  # of Friday night, on Saturday
        ("fri", "22:00", "02:00", "2026-11-27T01:00:00", False),
        ("fri", "22:00", "24:00", "2026-11-27T23:59:59", True),
        ("fri", "22:00", "24:00", "2026-11-28T00:00:00", False),
        ("fri", "00:00", "24:00", "2026-11-27T00:00:00", True),
        ("fri", "24:00", "02:00", "2026-11-28T01:00:00", True),  # what begins as Friday ends
        ("fri", "24:00", "24:00", "2026-11-28T23:59:00", True),
        ("fri", "09:00", "09:00", "2026-11-28T08:59:00", True),  # a whole day
    ],
)
def test_windows_over_midnight(days: str, start: str, end: str, when: str, is_so: bool) -> None:
    assert is_open([window(days, start, end)], at(when)) is is_so


def test_nothing_said_is_never_open() -> None:
    for windows in (None, []):
        assert not is_open(windows, 0)
        assert next_change(windows, 0) is None


def test_the_next_change_is_a_beginning_or_an_end() -> None:
    friday = at("2026-11-27T16:00:00", "Europe/Athens")
    closes = next_change(OFFICE, friday)
    assert closes == friday + HOUR
    assert next_change(OFFICE, closes) == at("2026-11-30T09:00:00", "Europe/Athens")


def test_an_hour_that_is_repeated_is_in_it_whole() -> None:
    """Athens, 25 October 2026: at 04:00 the clock goes back to 03:00."""
    night = [window("sun", "03:30", "03:45", "Europe/Athens")]
    first, second = (at("2026-10-25T03:30:00", "Europe/Athens", fold) for fold in (0, 1))
    assert second - first == HOUR
    assert opened_at(night, second) == first
    assert next_change(night, first) == second + HOUR / 4


def test_a_time_that_is_skipped_comes_that_much_later() -> None:
    """Athens, 29 March 2026: at 03:00 the clock goes to 04:00."""
    night = [window("sun", "03:30", "05:00", "Europe/Athens")]
    begins = at("2026-03-29T04:30:00", "Europe/Athens")
    assert not is_open(night, begins - 1)
    assert is_open(night, begins)
    assert not is_open([window("sun", "03:10", "03:20", "Europe/Athens")], at("2026-03-29T04:21:00", "Europe/Athens"))


def test_a_day_that_never_was_opens_nothing_for_ever() -> None:
    """Apia went from the 29th to the 31st of December 2011."""
    friday = [window("fri", "09:00", "17:00", "Pacific/Apia")]
    assert not is_open(friday, at("2011-12-31T20:00:00", "Pacific/Apia"))
    assert next_change(friday, at("2011-12-31T20:00:00", "Pacific/Apia")) == at("2012-01-06T09:00:00", "Pacific/Apia")


clocks = st.integers(0, 24 * 60 - 1).map(lambda minute: f"{minute // 60:02}:{minute % 60:02}")
windows = st.lists(
    st.builds(
        Window,
        days=st.lists(st.sampled_from(DAYS), min_size=1, max_size=7, unique=True),
        start=clocks,
        end=clocks | st.just("24:00"),
        timezone=st.sampled_from(ZONES),
    ),
    max_size=3,
)
times = st.integers(1_500_000_000, 2_000_000_000).map(float)


def shown_open(each: Window, now: float) -> bool:
    """Read it off the clock: what a person would say."""
    local = datetime.fromtimestamp(now, ZoneInfo(each.timezone))
    clock, end = f"{local:%H:%M}", each.end
    today, yesterday = DAYS[local.weekday()], DAYS[(local - timedelta(days=1)).weekday()]
    if end > each.start:
        return today in each.days and each.start <= clock < end
    return (today in each.days and each.start <= clock) or (yesterday in each.days and clock < end)


def is_steady(zone: str, now: float) -> bool:
    """Whether that clock did not jump for two days before, and does not for the next."""
    return (
        len({datetime.fromtimestamp(now + hours * HOUR, ZoneInfo(zone)).utcoffset() for hours in range(-49, 26)}) == 1
    )


@given(windows, times)
def test_it_is_what_the_clock_says(several: list[Window], now: float) -> None:
    for each in several:
        assume(is_steady(each.timezone, now))
    assert is_open(several, now) == any(shown_open(each, now) for each in several)


@given(windows, times)
def test_nothing_changes_before_the_next_change(several: list[Window], now: float) -> None:
    """Also where clocks jump: whoever sleeps until then misses nothing."""
    change = next_change(several, now)
    assert (change is None) == (not several)
    if change is None:
        return
    assert now < change <= now + 9 * 24 * HOUR
    for part in (0.0, 0.25, 0.5, 0.75, 0.999999):
        assert opened_at(several, now + (change - now) * part) == opened_at(several, now)


@given(windows, times)
def test_what_is_open_began_before(several: list[Window], now: float) -> None:
    began = opened_at(several, now)
    if began is not None:
        assert now - 26 * HOUR <= began <= now
        assert is_open(several, began)


@given(windows, times)
def test_all_is_closed_after_the_last_window_of_a_row(several: list[Window], now: float) -> None:
    """As if one went from change to change, for so many days at most."""
    at = now
    while is_open(several, at) and at < now + 3 * 24 * HOUR:
        at = next_change(several, at) or at
    assert closes_at(several, now, 3) == min(at, now + 3 * 24 * HOUR)
