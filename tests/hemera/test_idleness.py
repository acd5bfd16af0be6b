"""When a server is idle, and how it sleeps then."""

from __future__ import annotations

import math
import time
from typing import Any

import pytest
from tests.hemera.facts import NOW, activity, server

from sourcelair.hemera.idleness import Verdict, first_look, judge, kept_awake, may_sleep

LONG_AGO = NOW - 5000
DOZES = {"doze_after": 20.0, "stop_after": 60.0}
NEVER = Verdict(None, math.inf)

# 1970-01-01 was a Thursday, and NOW is 02:46:40 of it.
OPEN_UNTIL_FIVE = {"days": ["thu"], "start": "02:00", "end": "05:00"}
ON_UNTIL_SIX = {"days": ["thu"], "start": "05:00", "end": "06:00"}
OPENS_AT_FIVE = {"days": ["thu"], "start": "05:00", "end": "06:00"}


def at(seconds: float) -> Verdict:
    """Not now; look again so many seconds from now."""
    return Verdict(None, NOW + seconds)


STOP, DOZE = Verdict("stop", NOW + 1), Verdict("doze", NOW + 1)


@pytest.mark.parametrize(
    ("sleep", "facts", "seen", "verdict"),
    [
        # Nobody came since it woke, or the last visit counts.
        ({}, {}, {}, STOP),
        ({}, {"awake_at": NOW - 10}, {}, at(50)),
        ({}, {}, {"last_active": NOW - 60}, STOP),
        ({}, {}, {"last_active": NOW - 20}, at(40)),
        # An idle stop that was cancelled is no activity.
        ({}, {"changed_at": NOW - 1}, {}, STOP),
        # What is open.
        ({}, {}, {"active": 1, "in_flight": 1, "streams": 1}, at(60)),
        ({}, {}, {"in_flight": 1}, at(1)),
        ({}, {}, {"in_flight": 1, "streams": 1, "idle_streams": 1}, STOP),
        ({}, {}, {"in_flight": 2, "streams": 1, "idle_streams": 1}, at(1)),
        # It dozes first.
        (DOZES, {}, {"last_active": NOW - 10}, at(10)),
        (DOZES, {}, {"last_active": NOW - 30}, DOZE),
        (DOZES, {}, {"last_active": NOW - 70}, STOP),
        (DOZES, {}, {"last_active": NOW - 30, "in_flight": 1}, at(1)),
        (DOZES, {}, {"last_active": NOW - 30, "in_flight": 1, "streams": 1, "idle_streams": 1}, at(10)),
        (DOZES, {}, {"last_active": NOW - 55, "in_flight": 1, "streams": 1, "idle_streams": 1}, at(5)),
        (DOZES, {}, {"last_active": NOW - 70, "in_flight": 1, "streams": 1, "idle_streams": 1}, STOP),
        (DOZES, {}, {"active": 1, "in_flight": 1}, at(20)),
        ({"doze_after": 60.0, "stop_after": 60.0}, {}, {"last_active": NOW - 55}, at(5)),
        ({"doze_after": 20.0, "stop_after": "never"}, {}, {}, DOZE),
        ({"doze_after": "never", "stop_after": "never"}, {}, {}, NEVER),
        # It dozes already: what was seen of it is what was.
        (DOZES, {"state": "dozing"}, {"last_active": NOW - 30}, at(30)),
        (DOZES, {"state": "dozing"}, {"last_active": NOW - 60}, STOP),
        (DOZES, {"state": "dozing", "changed_at": NOW - 30}, {}, at(10)),
        (DOZES, {"state": "dozing", "changed_at": NOW - 40}, {}, STOP),
        ({"doze_after": 20.0, "stop_after": "never"}, {"state": "dozing"}, {}, NEVER),
        # What keeps it awake whoever visits.
        ({}, {"always_on": True}, {}, NEVER),
        ({}, {"busy_until": NOW + 5}, {}, at(5)),
        ({}, {"busy_until": NOW - 5}, {}, STOP),
        ({}, {"busy_until": NOW + 5, "extended_until": NOW + 9}, {}, at(9)),
        ({}, {"extended_until": NOW + 5}, {"last_active": NOW - 20}, at(40)),
        (DOZES, {"extended_until": NOW + 5}, {"last_active": NOW - 30}, at(5)),
        ({"min_awake": 90.0}, {"awake_at": NOW - 70}, {}, at(20)),
        ({"schedule": [OPEN_UNTIL_FIVE]}, {}, {}, at(5 * 3600 - NOW)),
        ({"schedule": [OPEN_UNTIL_FIVE, ON_UNTIL_SIX]}, {}, {}, at(6 * 3600 - NOW)),
        ({"schedule": [OPENS_AT_FIVE]}, {}, {}, STOP),
        # What is not up does not sleep.
        ({}, {"state": "starting"}, {}, NEVER),
        ({}, {"state": "draining"}, {}, NEVER),
    ],
)  # fmt: skip
def test_when_it_sleeps_and_how(
    sleep: dict[str, Any], facts: dict[str, Any], seen: dict[str, Any], verdict: Verdict
) -> None:
    assert judge(server(sleep, **facts), activity(**seen), NOW) == verdict


def test_a_thaw_is_a_use_though_nobody_may_be_there_yet() -> None:
    """Else it would be frozen again before the visit reaches it."""
    assert judge(server(DOZES), activity(last_active=LONG_AGO), NOW).mode is not None
    assert judge(server(DOZES, thawed_at=NOW - 1), activity(last_active=LONG_AGO), NOW) == at(19)
    dozing_again = server(DOZES, state="dozing", thawed_at=NOW - 50, changed_at=NOW - 30)
    assert judge(dozing_again, activity(last_active=LONG_AGO), NOW) == at(10)


def test_what_is_known_besides_counts_too() -> None:
    assert judge(server(), activity(last_active=LONG_AGO), NOW, active_since=NOW - 1) == at(59)


def test_an_instance_that_was_never_published_counts_from_its_state() -> None:
    assert judge(server(awake_at=None, changed_at=NOW - 10), activity(), NOW) == at(50)


@pytest.mark.parametrize("last", [NOW - 70, NOW - 30, NOW - 10, NOW])
def test_the_first_look_is_never_later_than_the_verdict_of_nobody_there(last: float) -> None:
    it = server(DOZES)
    verdict = judge(it, activity(last_active=last), NOW)
    assert first_look(it, last, NOW) == (NOW if verdict.mode else verdict.look_at)


def test_who_never_sleeps() -> None:
    assert may_sleep(server())
    assert may_sleep(server(state="dozing"))
    assert not may_sleep(server(always_on=True))
    assert not may_sleep(server(state="starting"))
    assert not may_sleep(server(instance=None))


def test_windows_that_never_close_are_asked_about_again_some_day() -> None:
    days = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
    always = server({"schedule": [{"days": days, "start": "00:00", "end": "24:00"}]})
    kept = kept_awake(always, NOW)
    assert kept.reason == "schedule"
    assert NOW + 86400 < kept.until < math.inf


def test_the_longest_schedule_that_may_be_stalls_nobody() -> None:
    """All services share a thread: it is looked at in milliseconds, not for each of its thousands of edges."""
    days = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
    short = [{"days": days, "start": f"{hour // 2:02}:10", "end": f"{hour // 2:02}:2{hour % 10}"} for hour in range(48)]
    kept = server({"schedule": [{"days": days, "start": "00:00", "end": "24:00"}, *short]})
    before = time.process_time()
    assert kept_awake(kept, NOW).reason == "schedule"
    assert time.process_time() - before < 0.5
