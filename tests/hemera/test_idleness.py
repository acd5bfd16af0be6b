"""When a server is idle."""

from __future__ import annotations

from typing import Any

from sourcelair.client.ceryx import Activity
from sourcelair.client.servers import Instance, Server, Spec
from sourcelair.hemera.idleness import judge, may_sleep

NOW = 10_000.0
IDLE = 60.0


def server(**changes: Any) -> Server:
    facts: dict[str, Any] = {
        "owner": "demo", "project": "blog", "url": "http://blog--demo.localhost", "hosts": [], "spec": Spec(),
        "enabled": True, "always_on": False, "desired": "awake", "state": "awake", "instance": Instance(id="i1"),
        "revision": 1, "created_at": 0.0, "changed_at": NOW - 100, **changes,
    }  # fmt: skip
    return Server(**facts)


def activity(**changes: Any) -> Activity:
    facts: dict[str, Any] = {
        "instance": "i1", "in_flight": 0, "active": 0, "streams": 0, "last_active": None, "totals": [], **changes,
    }  # fmt: skip
    return Activity(**facts)


def test_nobody_came_since_it_woke() -> None:
    assert judge(server(), activity(), IDLE, NOW).idle
    verdict = judge(server(changed_at=NOW - 10), activity(), IDLE, NOW)
    assert not verdict.idle
    assert verdict.look_at == NOW + 50


def test_an_idle_stop_that_was_cancelled_is_no_activity() -> None:
    """Back in `awake`, it is as idle as it was."""
    again = server(changed_at=NOW - 1, instance=Instance(id="i1", awake_at=NOW - 100))
    assert judge(again, activity(), IDLE, NOW).idle
    assert not judge(again, activity(last_active=NOW - 1), IDLE, NOW).idle


def test_the_last_visit_counts() -> None:
    assert judge(server(), activity(last_active=NOW - 60), IDLE, NOW).idle
    verdict = judge(server(), activity(last_active=NOW - 20), IDLE, NOW)
    assert not verdict.idle
    assert verdict.look_at == NOW + 40


def test_an_open_websocket_keeps_it_awake() -> None:
    verdict = judge(server(), activity(active=1, in_flight=1, streams=1, last_active=NOW - 5000), IDLE, NOW)
    assert not verdict.idle
    assert verdict.look_at == NOW + IDLE


def test_a_robot_delays_and_does_not_extend() -> None:
    verdict = judge(server(), activity(in_flight=1, last_active=NOW - 100), IDLE, NOW)
    assert not verdict.idle
    assert verdict.look_at <= NOW + 1


def test_who_never_sleeps() -> None:
    assert may_sleep(server())
    assert not may_sleep(server(always_on=True))
    assert not may_sleep(server(state="starting"))
