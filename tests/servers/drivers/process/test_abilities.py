"""What this machine can enforce, as it is told before anything runs, and by what runs."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.servers.drivers.subjects import ProcessSubject

from sourcelair.servers.drivers.process import abilities

pytestmark = pytest.mark.anyio

ALL = {"tracking", "pids", "memory", "cpu", "freezer"}


async def test_what_seems_possible_is_what_a_driver_can(tmp_path: Path) -> None:
    """On this machine, whatever it is."""
    subject = ProcessSubject(tmp_path)
    try:
        driver = subject.driver()
        assert driver.abilities == abilities.possible()
        assert ("pause" in driver.capabilities) == ("freezer" in driver.abilities)
    finally:
        await subject.close()


def test_nothing_is_lacking_only_where_all_is_there() -> None:
    assert not abilities.lacking(ALL)
    assert all(abilities.lacking(ALL - {one}) for one in ALL)


@pytest.mark.parametrize(
    ("ability", "subject"),
    [("tracking", "isolation"), ("pids", "processes"), ("memory", "memory"), ("cpu", "cpu"), ("freezer", "pause")],
)
def test_each_ability_has_a_sentence_that_changes_with_it(ability: str, subject: str) -> None:
    whole, without = abilities.describe(ALL), abilities.describe(ALL - {ability})
    assert {name for name in whole if whole[name] != without[name]} == {subject}
    assert all(sentence.endswith(".") for sentence in [*whole.values(), *without.values()])
