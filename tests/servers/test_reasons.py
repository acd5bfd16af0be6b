"""Why a server is kept awake, started or ended though nobody asked."""

from __future__ import annotations

from typing import Any

import pytest

from sourcelair.client.policy import Policy, SleepPolicy, Window
from sourcelair.client.servers import Spec
from sourcelair.servers.reasons import is_due, is_kept_awake, lifetime_left, why_kept, why_running
from sourcelair.servers.records import InstanceRecord, ServerRecord

NOON = 1_764_072_000.0
"""Tuesday, 25 November 2025, 12:00 UTC."""

HOUR = 3600.0
OPEN = [Window(days=["tue"], start="09:00", end="17:00", timezone="UTC")]
CLOSED = [Window(days=["wed"], start="09:00", end="17:00", timezone="UTC")]


def server(sleep: SleepPolicy | None = None, instance: dict[str, Any] | None = None, **values: Any) -> ServerRecord:
    made = None if instance is None else InstanceRecord(id="i1", port=1, started_at=NOON - 100, **instance)
    policy = Policy(sleep=sleep or SleepPolicy())
    values = {"state": "awake" if made else "asleep", **values}
    return ServerRecord(
        owner="demo", project="blog", spec=Spec(), created_at=0, changed_at=0, policy=policy, instance=made, **values
    )


@pytest.mark.parametrize(
    ("record", "why"),
    [
        (server(instance={"awake_at": NOON - 50}), None),
        (server(instance={"awake_at": NOON - 50}, always_on=True), "always on"),
        (server(SleepPolicy(schedule=OPEN), {"awake_at": NOON - 50}), "schedule"),
        (server(SleepPolicy(schedule=CLOSED), {"awake_at": NOON - 50}), None),
        (server(instance={"busy_until": NOON + 1}), "busy"),
        (server(instance={"busy_until": NOON}), None),
        (server(instance={"extended_until": NOON + 1}), "asked to keep it"),
        (server(instance={"extended_until": NOON}), None),
        (server(SleepPolicy(min_awake=60), {"awake_at": NOON - 59}), "60 s"),
        (server(SleepPolicy(min_awake=60), {"awake_at": NOON - 60}), None),
    ],
)
def test_what_keeps_it_awake(record: ServerRecord, why: str | None) -> None:
    said = why_kept(record, NOON)
    assert said is None if why is None else said is not None and why in said


def test_what_is_frozen_is_not_thawed_to_have_been_awake_long_enough() -> None:
    record = server(SleepPolicy(min_awake=60), {"awake_at": NOON - 5})
    assert why_kept(record, NOON) is not None
    assert why_running(record, NOON) is None


def test_a_schedule_is_like_always_on_while_it_is_open() -> None:
    assert is_kept_awake(server(always_on=True), NOON)
    assert is_kept_awake(server(SleepPolicy(schedule=OPEN)), NOON)
    assert not is_kept_awake(server(SleepPolicy(schedule=CLOSED)), NOON)


@pytest.mark.parametrize(
    ("record", "due"),
    [
        (server(SleepPolicy(schedule=OPEN)), "schedule"),
        (server(SleepPolicy(schedule=CLOSED)), None),
        (server(SleepPolicy(schedule=OPEN), desired="awake"), None),
        (server(SleepPolicy(schedule=OPEN), desired="awake", given_up=True), "schedule"),
        (server(SleepPolicy(schedule=OPEN), enabled=False), None),
        (server(SleepPolicy(schedule=OPEN), removing=True), None),
        (server(SleepPolicy(schedule=OPEN), stopped_at=NOON - HOUR), None),  # by a user, in this window
        (server(SleepPolicy(schedule=OPEN), stopped_at=NOON - 4 * HOUR), "schedule"),  # before it began
        (server(SleepPolicy(schedule=OPEN), stopped_at=NOON + HOUR), None),  # in doubt (a clock was set) it holds
        (server(always_on=True, cause="idle"), "always on"),
        (server(always_on=True, cause="stopped by a user"), None),
    ],
)
def test_what_starts_without_anybody_asking(record: ServerRecord, due: str | None) -> None:
    assert is_due(record, NOON) == due


@pytest.mark.parametrize(
    ("longest", "age", "left"), [(None, 5, None), ("never", 5, None), (10, 4, 6), (10, 10, 0), (10, 15, 0)]
)
def test_how_long_it_may_live(longest: Any, age: float, left: float | None) -> None:
    assert lifetime_left(server(SleepPolicy(max_lifetime=longest)), age) == left
