"""The time that a page tells: since the wake began, whoever opened it, and when."""

from __future__ import annotations

from typing import Any

from sourcelair.client.servers import Server
from sourcelair.hemera.waits import QUIET, Waits

PATIENCE = 0.75


def server(state: str, changed_at: float = 0.0) -> Server:
    values: dict[str, Any] = {
        "owner": "demo", "project": "blog", "url": "", "hosts": [], "spec": {}, "enabled": True, "always_on": False,
        "desired": "awake", "policy": {"wake": {"patience": PATIENCE}}, "revision": 1, "created_at": 0,
    }  # fmt: skip
    return Server(state=state, changed_at=changed_at, **values)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_it_goes_on_from_the_queue_to_the_start() -> None:
    clock = Clock()
    waits = Waits(clock)
    assert waits.elapsed(server("asleep")) == PATIENCE, "the first one was held for so long"
    clock.now += 10
    assert waits.elapsed(server("asleep")) == 10 + PATIENCE, "another one who comes later sees the same"
    assert waits.elapsed(server("starting", changed_at=clock.now)) == 10 + PATIENCE


def test_a_start_that_began_before_anybody_came_counts_from_its_own_beginning() -> None:
    assert Waits(Clock()).elapsed(server("starting", changed_at=970.0)) == 30


def test_a_clock_that_is_behind_gives_no_time_below_zero() -> None:
    clock = Clock()
    waits = Waits(clock)
    waits.elapsed(server("asleep"))
    clock.now -= 5
    assert waits.elapsed(server("asleep")) == 0


def test_the_next_wake_counts_anew() -> None:
    """After one that ended, and after one that nobody waited for to the end."""
    clock = Clock()
    waits = Waits(clock)
    waits.elapsed(server("asleep"))
    clock.now += 10
    waits.over(server("awake"))
    assert waits.elapsed(server("asleep")) == PATIENCE
    clock.now += QUIET + 1
    assert waits.elapsed(server("asleep")) == PATIENCE
