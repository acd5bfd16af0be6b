"""How long failed starts are held back."""

from __future__ import annotations

import pytest

from sourcelair.client.servers import Spec
from sourcelair.servers.backoff import JITTER, LONGEST_BACKOFF, backoff, held_back
from sourcelair.servers.records import ServerRecord

NOW = 1000.0


@pytest.mark.parametrize(("jitter", "seconds"), [(-1, 3.2), (0, 4), (0.5, 4.4), (1, 4.8)])
def test_a_pause_is_a_little_shorter_or_longer(jitter: float, seconds: float) -> None:
    """What failed together is not tried together."""
    assert backoff(3, jitter) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("retry_in", "held"),
    [
        (None, 0),
        (-5, 0),
        (7, 7),
        (LONGEST_BACKOFF * (1 + JITTER), LONGEST_BACKOFF * (1 + JITTER)),
        (7200, 0),  # the clock was set back by two hours
    ],
)
def test_no_pause_is_longer_than_the_longest(retry_in: float | None, held: float) -> None:
    retry_at = None if retry_in is None else NOW + retry_in
    record = ServerRecord(owner="demo", project="blog", spec=Spec(), created_at=0, changed_at=0, retry_at=retry_at)
    assert held_back(record, NOW) == held
