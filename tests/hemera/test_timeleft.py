"""How long a server stays awake, as visitors and owners are told."""

from __future__ import annotations

from typing import Any

import pytest
from tests.hemera.facts import NOW, activity, server

from sourcelair.hemera.idleness import judge
from sourcelair.hemera.timeleft import IN_USE, NEVER, time_left

OPEN_UNTIL_FIVE = {"days": ["thu"], "start": "02:00", "end": "05:00"}


@pytest.mark.parametrize(
    ("sleep", "facts", "seen", "left", "warning", "reason"),
    [
        ({}, {}, {"last_active": NOW - 20}, 40, False, None),
        ({}, {}, {"last_active": NOW - 30}, 30, True, None),
        ({}, {}, {"last_active": NOW - 70}, 0, True, None),
        ({"warn_before": 0.0}, {}, {"last_active": NOW - 70}, 0, False, None),
        ({}, {}, {"active": 1, "in_flight": 1}, None, False, IN_USE),
        ({}, {}, {"in_flight": 1, "streams": 1, "idle_streams": 1, "last_active": NOW - 20}, 40, False, None),
        ({}, {"always_on": True}, {}, None, False, "always on"),
        ({}, {"busy_until": NOW + 50}, {"last_active": NOW - 50}, 50, False, "busy"),
        ({}, {"extended_until": NOW + 20}, {"last_active": NOW - 50}, 20, True, "extended"),
        ({}, {"extended_until": NOW + 20}, {"last_active": NOW - 10}, 50, False, None),
        ({"min_awake": 1100.0}, {}, {}, 100, False, "just woken"),
        ({"schedule": [OPEN_UNTIL_FIVE]}, {}, {}, 5 * 3600 - NOW, False, "schedule"),
        ({"stop_after": "never"}, {}, {}, None, False, NEVER),
        ({"doze_after": 5.0}, {"state": "dozing"}, {"last_active": NOW - 20}, 40, False, None),
        ({"doze_after": 5.0}, {"state": "dozing"}, {"last_active": NOW - 50}, 10, False, None),
    ],
)  # fmt: skip
def test_what_is_told(
    sleep: dict[str, Any], facts: dict[str, Any], seen: dict[str, Any], left: float | None, warning: bool, reason: str
) -> None:
    told = time_left(server(sleep, **facts), activity(**seen), NOW)
    assert (told.seconds_left, told.warning, told.reason) == (left, warning, reason)
    assert told.sleeps_at == (None if left is None else NOW + left)


@pytest.mark.parametrize("state", ["asleep", "starting", "draining", "stopping", "failed"])
def test_what_is_not_up_has_no_time_left(state: str) -> None:
    told = time_left(server(state=state), activity(), NOW)
    assert (told.state, told.sleeps_at, told.seconds_left, told.warning) == (state, None, None, False)


def test_dozing_comes_before_and_is_told_apart() -> None:
    told = time_left(server({"doze_after": 10.0}), activity(last_active=NOW - 5), NOW)
    assert (told.dozes_at, told.sleeps_at) == (NOW + 5, NOW + 55)
    never = time_left(server({"doze_after": 10.0, "stop_after": "never"}), activity(last_active=NOW - 5), NOW)
    assert (never.dozes_at, never.sleeps_at, never.reason) == (NOW + 5, None, NEVER)
    dozing = time_left(server({"doze_after": 10.0}, state="dozing"), activity(last_active=NOW - 15), NOW)
    assert dozing.dozes_at is None


def test_one_that_dozes_and_that_no_node_remembers_has_as_long_as_it_is_given() -> None:
    dozing = server({"doze_after": 10.0}, state="dozing", changed_at=NOW - 5)
    told = time_left(dozing, activity(), NOW)
    assert told.sleeps_at == NOW + 45 == judge(dozing, activity(), NOW).look_at
