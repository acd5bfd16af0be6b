"""Another program on the API's port: that is said, and its answers are taken for nothing."""

from __future__ import annotations

import json

import pytest
from tests.cli.conftest import Api, Run

ANSWERS = [
    (404, "text/html", b"<h1>Not Found</h1>"),
    (404, "application/json", b'{"detail": "Not Found"}'),
    (200, "text/html", b"<div id=app></div>"),
    (200, "text/plain", b"Hello World"),
    (302, "text/plain", b"See /login"),
]
"""Of Python's http.server, of a FastAPI of somebody else's, of a Vite, of a first Node program, of an intranet."""


@pytest.mark.parametrize("answer", ANSWERS, ids=lambda answer: f"{answer[0]} {answer[1]}")
@pytest.mark.parametrize("command", [["ls"], ["show", "demo/blog"], ["stop", "demo/blog"], ["logs", "-f", "demo/blog"]])
def test_what_is_not_sourcelair_is_not_believed(
    lair: Run, api: Api, command: list[str], answer: tuple[int, str, bytes]
) -> None:
    """A 404 of it does not mean that there is no such server."""
    for path in ("/api/servers/", "/api/servers/demo/blog/"):
        api.answers["GET", path] = lambda _: answer
    done = lair(*command)
    assert done.code == 5
    assert "is not SourceLair" in done.error and "--api-listen" in done.error
    assert json.loads(lair(*command, "--json").error)["status"] == 502


@pytest.mark.parametrize("words", [("routes", "rm", ""), ("token", "revoke", "")])
def test_an_empty_name_is_bad_usage(lair: Run, api: Api, words: tuple[str, ...]) -> None:
    """As an unset variable in a script is: nobody is asked, and no other program is suspected."""
    done = lair(*words)
    assert done.code == 2
    assert "empty" in done.error
    assert api.seen == []
