"""`lair start`, `stop` and `restart`: what they say of a server's state when they end."""

from __future__ import annotations

import json

import pytest
from tests.cli.conftest import Api, Run, a_server

PATH = "/api/servers/demo/blog/"
INSTANCE = {"id": "i1", "host": "127.0.0.1", "port": 20000}


@pytest.mark.parametrize("state", ["asleep", "starting", "awake"])
def test_a_stop_says_that_visitors_woke_the_next_one(lair: Run, api: Api, state: str) -> None:
    """Whatever state the next one has reached at the moment that the first is gone: its start is wanted."""
    api.answer("GET", PATH, a_server(state="awake", desired="awake", instance=INSTANCE))
    api.answer("POST", f"{PATH}stop", a_server(state=state, desired="awake"))
    assert "visitors have woken the next one" in lair("stop", "demo/blog").out
    stopped = json.loads(lair("stop", "demo/blog", "--json").out)
    assert (stopped["woken_again"], stopped["stopped_instance"]) == (True, "i1")


def test_a_stop_says_that_it_sleeps(lair: Run, api: Api) -> None:
    api.answer("GET", PATH, a_server(state="awake", desired="awake", instance=INSTANCE))
    api.answer("POST", f"{PATH}stop", a_server())
    assert lair("stop", "demo/blog").out == "demo/blog sleeps.\n"
    assert json.loads(lair("stop", "demo/blog", "--json").out)["woken_again"] is False


def test_a_stop_of_one_that_failed_does_not_say_that_it_sleeps(lair: Run, api: Api) -> None:
    """It does not run, and it is not asleep."""
    api.answer("GET", PATH, a_server(state="failed"))
    api.answer("POST", f"{PATH}stop", a_server(state="failed"))
    done = lair("stop", "demo/blog")
    assert done.code == 0
    assert "does not run" in done.out and "failed" in done.out and "slept" not in done.out


def test_a_removal_that_takes_its_time_is_not_called_done(lair: Run, api: Api) -> None:
    """It goes on; whoever deletes the directory next must not believe that it is over."""
    api.answer("GET", PATH, a_server(state="awake", instance=INSTANCE))
    api.answer("DELETE", PATH, {}, 202)
    done = lair("rm", "--yes", "demo/blog")
    assert (done.code, done.out) == (6, "")
    assert "still being stopped" in done.error
