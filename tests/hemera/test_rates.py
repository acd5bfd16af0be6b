"""How many starts visits may cause, with a clock that the test sets."""

from __future__ import annotations

import pytest

from sourcelair.hemera.rates import Buckets, Rates, source_of


class Clock:
    """Seconds that only a test lets pass."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_minutes_worth_at_once_and_then_one_by_one() -> None:
    clock = Clock()
    buckets = Buckets(6, clock)
    for _ in range(6):
        assert buckets.wait("a") == 0
        buckets.take("a")
    assert buckets.wait("a") == pytest.approx(10, abs=0.01)
    assert buckets.wait("b") == 0, "each has its own"
    clock.now += 4
    assert buckets.wait("a") == pytest.approx(6, abs=0.01)
    clock.now += 6
    assert buckets.wait("a") == 0
    buckets.take("a")
    assert buckets.wait("a") == pytest.approx(10, abs=0.01)
    clock.now += 3600
    for _ in range(6):
        assert buckets.wait("a") == 0, "no more than a minute's worth comes back"
        buckets.take("a")
    assert buckets.wait("a") > 0


def test_what_is_given_back_can_be_taken_again() -> None:
    buckets = Buckets(1, Clock())
    buckets.take("a")
    assert buckets.wait("a") > 0
    buckets.give_back("a")
    assert buckets.wait("a") == 0
    buckets.give_back("a")
    buckets.take("a")
    assert buckets.wait("a") > 0, "a bucket has no more than its size"


def test_whoever_was_seen_longest_ago_is_forgotten() -> None:
    buckets = Buckets(1, Clock(), most=3)
    for name in "abc":
        buckets.take(name)
    buckets.take("a")
    buckets.take("d")
    assert len(buckets) == 3
    assert buckets.wait("b") == 0
    assert all(buckets.wait(name) > 0 for name in "acd")


def test_an_owner_waits_for_its_own_rate_and_for_that_of_all() -> None:
    clock = Clock()
    rates = Rates(in_all=3, per_owner=2, per_address=1, clock=clock)
    rates.take("a")
    assert rates.short_of("a") is None
    rates.take("a")
    assert rates.short_of("a") == "owner"
    assert rates.wait("a") == pytest.approx(30, abs=0.01)
    assert rates.wait("b") == 0
    rates.take("b")
    assert rates.short_of("b") == "all"
    assert rates.wait("b") == pytest.approx(20, abs=0.01)
    rates.give_back("b")
    assert rates.wait("b") == 0


@pytest.mark.parametrize(
    ("address", "source"),
    [
        (None, None),
        ("", None),
        ("127.0.0.1", None),
        ("127.8.9.10", None),
        ("::1", None),
        ("::ffff:127.0.0.1", None),
        ("203.0.113.9", "203.0.113.9"),
        ("::ffff:203.0.113.9", "203.0.113.9"),
        ("2001:db8:1:2:aaaa::1", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:bbbb::9", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("unix:", "unix:"),
    ],
)
def test_what_an_address_counts_as(address: str | None, source: str | None) -> None:
    assert source_of(address) == source
