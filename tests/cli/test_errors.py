"""Errors on the command line: one line for a person, one JSON object for a program, and nothing else."""

from __future__ import annotations

import json

import pytest
from tests.cli.conftest import Api, Run, a_server

from sourcelair.cli.session import Session

MISTAKES = [
    (["nonsense"], "nonsense", "lair --help"),
    (["ls", "--nonsense"], "--nonsense", "lair ls --help"),
    (["show"], "OWNER/PROJECT", "lair show --help"),
    (["logs", "-n", "many", "demo/blog"], "--lines", "lair logs --help"),
    (["token", "create", "--kind", "king"], "king", "lair token create --help"),
]


@pytest.mark.parametrize(("arguments", "names", "help_"), MISTAKES)
def test_a_mistake_in_the_arguments_is_one_line(lair: Run, arguments: list[str], names: str, help_: str) -> None:
    """It names what is wrong, and where to read on."""
    done = lair(*arguments)
    assert done.code == 2 and done.out == ""
    assert done.error.startswith("lair: ")
    assert names in done.error and f"`{help_}`" in done.error


@pytest.mark.parametrize(("arguments", "names", "help_"), MISTAKES)
def test_a_mistake_in_the_arguments_is_json(lair: Run, arguments: list[str], names: str, help_: str) -> None:
    done = lair(*arguments, "--json")
    assert done.code == 2 and done.out == ""
    problem = json.loads(done.error)
    assert problem["status"] == 422
    assert problem["detail"].strip() != ""


def test_what_comes_after_two_dashes_is_not_ours(lair: Run) -> None:
    """`--json` there is an option of the server's own program."""
    assert lair("create", "--nonsense", "demo/blog", "--", "serve", "--json").error.startswith("lair: ")


@pytest.mark.parametrize("group", [[], ["routes"], ["token"], ["nodes"]])
def test_a_group_without_a_command_explains_itself(lair: Run, group: list[str]) -> None:
    done = lair(*group)
    assert done.code == 2
    assert "Usage: lair" in done.err and "Commands" in done.err


def test_a_failed_start_is_nothing_but_json(lair: Run, api: Api) -> None:
    """The last lines of its log are in the object, and not below it too."""
    problem = {"status": 503, "detail": "demo/blog did not start.", "state": "failed", "log": ["no database"]}
    api.answer("GET", "/api/servers/demo/blog/", a_server())
    api.answer("POST", "/api/servers/demo/blog/start", problem, 503)
    done = lair("start", "demo/blog", "--json")
    assert done.code == 6 and done.out == ""
    assert json.loads(done.error)["log"] == ["no database"]
    assert "  | no database" in lair("start", "demo/blog").err


def test_what_nobody_foresaw_is_json_too(lair: Run, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Session) -> None:
        raise ZeroDivisionError("never mind")

    monkeypatch.setattr(Session, "servers", fail)
    done = lair("ls", "--json")
    assert done.code == 1
    assert "ZeroDivisionError" in json.loads(done.error)["detail"]


def test_what_to_do_is_said_in_json_too(lair: Run) -> None:
    """Not only what is wrong."""
    done = lair("ls", "--json")
    assert done.code == 5
    assert "`lair up` starts it" in json.loads(done.error)["detail"]
