"""`lair enable` and `lair disable`."""

from __future__ import annotations

from typing import Any

import pytest
from tests.cli.conftest import Api, Run, a_server

from sourcelair.errors import PROBLEM_JSON

PATH = "/api/servers/demo/blog/"


@pytest.mark.parametrize(("command", "on"), [("enable", True), ("disable", False)])
def test_a_switch_changes_nothing_else(lair: Run, api: Api, command: str, on: bool) -> None:
    spec = {"command": ["true"], "directory": "/", "env": {"SECRET": "***"}}
    api.answer("GET", PATH, a_server(spec=spec, enabled=not on, always_on=True))
    api.answer("PUT", PATH, a_server(enabled=on))
    assert lair(command, "demo/blog").out.startswith(f"demo/blog is {command}d")
    body = api.seen[-1][2]
    assert (body["enabled"], body["always_on"], body["spec"]["env"]) == (on, True, {"SECRET": "***"})


def test_a_server_that_moves_on_meanwhile_is_read_again(lair: Run, api: Api) -> None:
    """Each step of its life is a revision: it was waking when it was switched off."""
    revision = 7

    def put(_: Any) -> tuple[int, str, bytes]:
        nonlocal revision
        revision += 1
        if revision < 10:
            api.answer("GET", PATH, a_server(revision=revision))
            return 412, PROBLEM_JSON, b'{"detail": "demo/blog is at another revision."}'
        api.answer("PUT", PATH, a_server(enabled=False))
        return api.answers["PUT", PATH](None)

    api.answer("GET", PATH, a_server(revision=revision))
    api.answers["PUT", PATH] = put
    assert lair("disable", "demo/blog").code == 0
    assert [headers["If-Match"] for method, _, _, headers in api.seen if method == "PUT"] == ['"7"', '"8"', '"9"']


def test_one_that_never_rests_is_given_up(lair: Run, api: Api) -> None:
    api.answer("GET", PATH, a_server())
    api.answer("PUT", PATH, {"detail": "demo/blog is at another revision."}, 412)
    assert lair("disable", "demo/blog").code == 4


@pytest.mark.parametrize("command", ["start", "restart"])
def test_who_wants_a_disabled_one_is_told_of_the_switch(lair: Run, api: Api, command: str) -> None:
    api.answer("GET", PATH, a_server(enabled=False))
    api.answer("POST", f"{PATH}{command}", {"detail": "demo/blog is disabled: …", "state": "disabled"}, 409)
    done = lair(command, "demo/blog")
    assert done.code == 4
    assert "`lair enable demo/blog`" in done.error
