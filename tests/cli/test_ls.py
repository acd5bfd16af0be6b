"""`lair ls`: filters, and what it says where nothing passes them."""

from __future__ import annotations

import json
from typing import get_args

from tests.cli.conftest import Api, Run, a_server

from sourcelair.cli.servers import ShownState
from sourcelair.client.servers import State


def test_a_filter_that_nothing_passes_is_not_an_empty_installation(lair: Run, api: Api) -> None:
    """Nobody is told to create the first server while there are others."""
    api.answer("GET", "/api/servers/", [a_server(), a_server(project="shop")])
    for filter_ in (["--owner", "nobody"], ["--state", "awake"]):
        assert lair("ls", *filter_).out == "None of 2 servers match.\n"
        assert json.loads(lair("ls", "--json", *filter_).out) == []
    assert lair("ls", "--state", "awake", "--state", "asleep").out.count("demo/") == 2
    api.answer("GET", "/api/servers/", [])
    assert "Create one" in lair("ls", "--state", "awake").out


def test_a_state_that_is_none_is_refused(lair: Run, api: Api) -> None:
    done = lair("ls", "--state", "foo")
    assert done.code == 2
    assert "foo" in done.error and "asleep" in done.error
    assert api.seen == []


def test_every_state_can_be_asked_for() -> None:
    assert set(ShownState) == {*get_args(State), "disabled"}
