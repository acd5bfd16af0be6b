"""Where the command line takes its token from, and that nobody ever sees it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.cli.conftest import Api, Run

SECRET = "hunter2"


@pytest.mark.parametrize("token", [f"{SECRET}\r\nX-Evil: 1", f"{SECRET}\nx", f"{SECRET}é", f"{SECRET} {SECRET}"])
def test_a_token_that_can_be_none_is_refused_and_not_shown(
    lair: Run, api: Api, monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    """The message names the variable, and never its value; in JSON too."""
    monkeypatch.setenv("LAIR_TOKEN", token)
    for flags in ([], ["--json"]):
        done = lair("ls", *flags)
        assert done.code == 2
        assert "LAIR_TOKEN" in done.error
        assert SECRET not in done.err + done.out
        assert "report" not in done.err
    assert json.loads(lair("ls", "--json").error)["status"] == 422
    assert api.seen == []


def test_white_space_around_a_token_does_no_harm(lair: Run, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it comes with a token that was pasted, or read from a file."""
    monkeypatch.setenv("LAIR_TOKEN", f" {SECRET}\r\n")
    api.answer("GET", "/api/servers/", [])
    assert lair("ls").code == 0
    monkeypatch.setenv("LAIR_TOKEN", " ")
    assert "empty" in lair("ls").error


def test_a_token_file_with_something_else_in_it_is_named(
    lair: Run, api: Api, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("LAIR_TOKEN")
    path = tmp_path / "data" / "admin.token"
    path.parent.mkdir()
    path.write_bytes(SECRET.encode() + b"\xff\n")
    done = lair("ls")
    assert done.code == 2
    assert str(path) in done.error and SECRET not in done.err


def test_a_token_in_the_settings_file_is_named_too(
    lair: Run, api: Api, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("LAIR_TOKEN")
    (tmp_path / "lair.toml").write_text(f'token = "{SECRET} two"\n')
    done = lair("ls")
    assert done.code == 2
    assert "token in lair.toml" in done.error and SECRET not in done.err
