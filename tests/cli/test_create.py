"""`lair create`: what it says of a server that could never start, and what `--update` changes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.cli.conftest import Api, Run, a_server

from sourcelair.client.servers import ServerInput

PATH = "/api/servers/demo/blog/"


def stores(api: Api) -> None:
    """Let the API take whatever it is given."""
    api.answers["PUT", PATH] = lambda body: (201, "application/json", json.dumps(a_server(spec=body["spec"])).encode())


def test_a_directory_that_is_not_there_is_told_at_once(lair: Run, api: Api, tmp_path: Path) -> None:
    """It is created all the same: the servers may be on another machine."""
    stores(api)
    done = lair("create", "demo/blog", "--dir", "missing", "--", "sh")
    assert done.code == 0
    assert done.out == "http://blog--demo.localhost:8080\n"
    assert done.error.startswith("lair: ") and f"{tmp_path / 'missing'} does not exist" in done.error


def test_a_program_that_is_not_there_is_told_at_once(lair: Run, api: Api) -> None:
    """On PATH, or in the directory that it runs in; nothing is said of one that is there."""
    stores(api)
    assert "no-such-program is not on PATH" in lair("create", "demo/blog", "--", "no-such-program").error
    assert "./run" in lair("create", "demo/blog", "--", "./run").error
    assert lair("create", "demo/blog", "--", "sh", "-c", "true").err == ""


def test_what_is_told_is_json_where_that_was_asked_for(lair: Run, api: Api) -> None:
    stores(api)
    done = lair("create", "demo/blog", "--json", "--dir", "missing", "--", "sh")
    assert json.loads(done.out)["project"] == "blog"
    assert "missing does not exist" in json.loads(done.error)["warning"]


SPEC = {
    "command": ["sh", "run"],
    "directory": "/",
    "env": {"SECRET": "***", "COLOUR": "***"},
    "readiness": {"path": "/ready", "status": [200, 204]},
    "limits": {"open_files": 100},
    "sleep": {"stop_after": 60},
}
"""What is stored, as the API shows it."""


def put(lair: Run, api: Api, *arguments: str) -> dict[str, Any]:
    """Run `lair create --update` on a server that exists; return the body of its PUT."""
    api.answer("GET", PATH, a_server(spec=SPEC, enabled=False, always_on=True, hosts=["blog--demo.localhost", "a.b"]))
    api.answer("PUT", PATH, a_server(spec=SPEC))
    done = lair("create", "--update", "demo/blog", *arguments)
    assert (done.code, done.err) == (0, "")
    ((body, expected),) = [(body, headers["If-Match"]) for method, _, body, headers in api.seen if method == "PUT"]
    assert expected == '"7"', "nobody else's change gets lost"
    made: dict[str, Any] = body
    return made


def test_an_update_of_nothing_changes_nothing(lair: Run, api: Api) -> None:
    """All is sent back as it is stored; a hidden value as what stands for it, which keeps it."""
    body = put(lair, api)
    stored = ServerInput.model_validate({"spec": SPEC, "enabled": False, "always_on": True})
    assert body["spec"] == stored.spec.model_dump()
    assert (body["enabled"], body["always_on"]) == (False, True)
    assert body["hosts"] == ["blog--demo.localhost", "a.b"]


@pytest.mark.parametrize(
    ("arguments", "part", "value"),
    [
        (["--idle", "10m"], "sleep", {"stop_after": 600.0}),
        (["--dir", "/tmp"], "directory", "/tmp"),
        (["--env", "COLOUR=red", "--env", "NEW=1"], "env", {"SECRET": "***", "COLOUR": "red", "NEW": "1"}),
        (["--processes", "5"], "limits", {"processes": 5, "open_files": 100, "memory_bytes": None}),
        (["--", "sh", "other"], "command", ["sh", "other"]),
    ],
)
def test_an_update_changes_what_is_given(lair: Run, api: Api, arguments: list[str], part: str, value: Any) -> None:
    """And nothing else: the directory is not the one where the command is typed."""
    body = put(lair, api, *arguments)
    stored = ServerInput.model_validate({"spec": SPEC}).spec.model_dump()
    if isinstance(stored[part], dict) and part != "env":
        value = {**stored[part], **value}
    assert body["spec"] == {**stored, part: value}


def test_an_update_of_what_is_beside_the_spec(lair: Run, api: Api) -> None:
    body = put(lair, api, "--host", "c.d", "--enabled", "--no-always-on")
    assert body["hosts"] == ["blog--demo.localhost", "a.b", "c.d"]
    assert (body["enabled"], body["always_on"]) == (True, False)


def test_an_update_of_what_is_not_there_creates_it(lair: Run, api: Api, tmp_path: Path) -> None:
    """With a command; without one nobody knows what to run."""
    assert "say what to run" in lair("create", "--update", "demo/blog").error
    api.answer("PUT", PATH, a_server(), 201)
    assert lair("create", "--update", "demo/blog", "--", "sh").code == 0
    ((body, headers),) = [(body, headers) for method, _, body, headers in api.seen if method == "PUT"]
    assert body["spec"]["directory"] == str(tmp_path)
    assert headers["If-None-Match"] == "*"


def test_a_replacement_keeps_nothing(lair: Run, api: Api) -> None:
    api.answer("PUT", PATH, a_server())
    assert lair("create", "--replace", "demo/blog", "--", "sh").code == 0
    ((method, _, body, headers),) = api.seen
    assert (method, body["spec"]["env"], "If-None-Match" in headers) == ("PUT", {}, False)
    assert lair("create", "--replace", "demo/blog").code == 2
    assert lair("create", "--replace", "--update", "demo/blog", "--", "sh").code == 2


def test_one_that_exists_is_left_alone(lair: Run, api: Api) -> None:
    api.answer("PUT", PATH, {"detail": "demo/blog exists already."}, 412)
    done = lair("create", "demo/blog", "--", "sh")
    assert done.code == 4 and "--update" in done.error


@pytest.mark.parametrize("status", ["99", "600", "-1"])
def test_a_status_that_no_answer_has_is_refused(lair: Run, api: Api, status: str) -> None:
    """A server that waits for it would never be ready."""
    done = lair("create", "demo/blog", "--ready-status", status, "--", "sh")
    assert done.code == 2
    assert "--ready-status" in done.error
    assert api.seen == []
