"""`lair create`: what it says of a server that could never start."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.conftest import Api, Run, a_server

PATH = "/api/servers/demo/blog/"


def test_a_directory_that_is_not_there_is_told_at_once(lair: Run, api: Api, tmp_path: Path) -> None:
    """It is created all the same: the servers may be on another machine."""
    api.answer("PUT", PATH, a_server(), 201)
    done = lair("create", "demo/blog", "--dir", "missing", "--", "sh")
    assert done.code == 0
    assert done.out == "http://blog--demo.localhost:8080\n"
    assert done.error.startswith("lair: ") and f"{tmp_path / 'missing'} does not exist" in done.error


def test_a_program_that_is_not_there_is_told_at_once(lair: Run, api: Api) -> None:
    """On PATH, or in the directory that it runs in; nothing is said of one that is there."""
    api.answer("PUT", PATH, a_server(), 201)
    assert "no-such-program is not on PATH" in lair("create", "demo/blog", "--", "no-such-program").error
    assert "./run" in lair("create", "demo/blog", "--", "./run").error
    assert lair("create", "demo/blog", "--", "sh", "-c", "true").err == ""


def test_what_is_told_is_json_where_that_was_asked_for(lair: Run, api: Api) -> None:
    api.answer("PUT", PATH, a_server(), 201)
    done = lair("create", "demo/blog", "--json", "--dir", "missing", "--", "sh")
    assert json.loads(done.out)["project"] == "blog"
    assert "missing does not exist" in json.loads(done.error)["warning"]
