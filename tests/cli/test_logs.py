"""`lair logs -f`: how it ends, and what it prints with --json."""

from __future__ import annotations

import json

import pytest
from tests.cli.conftest import Api, Run, a_server

PATH = "/api/servers/demo/blog/"
NOT_FOUND = {"detail": "No server found for demo/blog."}


def logs_that_end(api: Api, text: bytes, then: int) -> None:
    """Let a log end after this text; `then` is how the API answers for the server afterwards."""
    api.answer("GET", PATH, a_server())

    def log(_: object) -> tuple[int, str, bytes]:
        api.answer("GET", PATH, a_server(cause="removed") if then == 200 else NOT_FOUND, then)
        return 200, "text/plain", text

    api.answers["GET", f"{PATH}logs"] = log


@pytest.mark.parametrize("then", [404, 200])
def test_a_log_that_is_followed_ends_with_its_server(lair: Run, api: Api, then: int) -> None:
    """It was removed, or is about to be: that is said, and is no error."""
    logs_that_end(api, b"first\nlast\n", then)
    done = lair("logs", "-f", "demo/blog")
    assert (done.code, done.out, done.error) == (0, "first\nlast\n", "lair: demo/blog was removed.")


def test_a_log_that_is_followed_ends_with_the_control_plane(lair: Run, api: Api) -> None:
    """That is an error: a script must not take it for the end of the server."""
    logs_that_end(api, b"first\n", 503)
    done = lair("logs", "-f", "demo/blog")
    assert (done.code, done.out) == (5, "first\n")
    assert "has ended" in done.error


def test_a_log_that_is_followed_is_an_object_a_line(lair: Run, api: Api) -> None:
    """What is no UTF-8 does no harm; the last line counts without an end too."""
    logs_that_end(api, 'one "two"\n\xe9\n\n'.encode("latin-1") + "é\nlast".encode(), 404)
    done = lair("logs", "-f", "--json", "demo/blog")
    lines = [json.loads(line) for line in done.out.splitlines()]
    assert lines == [{"line": text} for text in ('one "two"', "�", "", "é", "last")]
    assert json.loads(done.error) == {"warning": "demo/blog was removed."}


def test_a_log_of_nothing_is_not_followed(lair: Run, api: Api) -> None:
    api.answer("GET", PATH, NOT_FOUND, 404)
    assert lair("logs", "-f", "demo/blog").code == 3
    assert [path for _, path, _, _ in api.seen] == [PATH]


def test_whose_token_was_revoked_is_told_that(lair: Run, api: Api) -> None:
    """The control plane runs: nobody shall start it anew."""
    api.answer("GET", PATH, a_server())

    def log(_: object) -> tuple[int, str, bytes]:
        api.answer("GET", PATH, {"detail": "This token is not known: it may have been revoked."}, 401)
        return 200, "text/plain", b"first\n"

    api.answers["GET", f"{PATH}logs"] = log
    done = lair("logs", "-f", "demo/blog")
    assert (done.code, done.out) == (1, "first\n")
    assert "revoked" in done.error and "has ended" not in done.error
