"""The command line as a person and a script use it, against a running installation."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.system.lair import SOURCE, Lair

pytestmark = pytest.mark.system

USAGE, NOT_FOUND, CONFLICT, UNREACHABLE, FAILED = 2, 3, 4, 5, 6

SERVE = [sys.executable, "-m", "http.server", "{port}"]
NAME = "demo/blog"
README = SOURCE.parent / "README.md"


@pytest.fixture
def blog(lair: Lair, tmp_path: Path) -> Iterator[Path]:
    """A server of a directory with one page."""
    (tmp_path / "index.html").write_text("my blog")
    lair.cli("create", NAME, "--dir", str(tmp_path), "--env", "SECRET=hunter2", "--", *SERVE)
    yield tmp_path
    lair.cli("rm", NAME, "--yes", check=False)


def fails(lair: Lair, code: int, *arguments: str) -> str:
    """Run a command that must fail with this code and one line; return that line."""
    done = lair.cli(*arguments, check=False)
    assert done.returncode == code, f"{done.returncode}: {done.stdout}{done.stderr}"
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    return done.stderr


def one_line(lair: Lair, code: int, *arguments: str) -> str:
    said = fails(lair, code, *arguments)
    assert said.count("\n") == 1, said
    assert said.startswith("lair: ")
    return said


def test_the_whole_way(lair: Lair, tmp_path: Path) -> None:
    """Create, visit, show, logs, stop, start, restart, open, rm: each says what a person wants to know."""
    (tmp_path / "index.html").write_text("my blog")
    url = f"http://blog--demo.localhost:{lair.port}"
    assert lair.cli("create", NAME, "--dir", str(tmp_path), "--", *SERVE).stdout == f"{url}\n"
    assert "asleep" in lair.cli("ls").stdout
    assert lair.get(NAME).text == "my blog"
    listed = lair.cli("ls").stdout
    assert "awake" in listed and url in listed
    shown = lair.cli("show", NAME).stdout
    for part in ("gate", "stored", "spawned", "listening", "ready", "published"):
        assert f"{part} " in shown, "the breakdown of the start"
    assert "GET / HTTP/1.1" in lair.cli("logs", NAME).stdout
    assert lair.cli("open", NAME, "--no-browser").stdout == f"{url}\n"
    assert lair.cli("stop", NAME).stdout == f"{NAME} sleeps.\n"
    assert lair.cli("stop", NAME).stdout == f"{NAME} slept already.\n"
    assert lair.cli("start", NAME).stdout.endswith(f"{url}\n")
    assert "already" in lair.cli("start", NAME).stdout
    before = lair.server(NAME)["instance"]["id"]
    assert lair.cli("restart", NAME).returncode == 0
    assert lair.server(NAME)["instance"]["id"] != before
    said = lair.cli("rm", NAME, "--yes").stdout
    assert str(tmp_path) in said and "untouched" in said
    assert (tmp_path / "index.html").read_text() == "my blog"
    one_line(lair, NOT_FOUND, "show", NAME)
    assert lair.get(NAME).headers["lair-state"] == "unknown-host"


def test_everything_speaks_json(lair: Lair, blog: Path) -> None:
    """With --json, standard output is one JSON document."""
    assert lair.cli_json("ls")[0]["project"] == "blog"
    assert lair.cli_json("show", NAME)["state"] == "asleep"
    assert lair.cli_json("start", NAME)["state"] == "awake"
    assert lair.cli_json("logs", NAME)["server"] == NAME
    assert lair.cli_json("open", NAME)["opened"] is False
    assert lair.cli_json("restart", NAME)["state"] == "awake"
    stopped = lair.cli_json("stop", NAME)
    assert stopped["stopped_instance"] and not stopped["woken_again"]
    assert lair.cli_json("routes", "list")["routes"][0]["source"] == "blog--demo.localhost"
    assert len(lair.cli_json("routes", "list", "--prefix", "blog-")["routes"]) == 1
    assert lair.cli_json("routes", "list", "--prefix", "other")["routes"] == []
    assert lair.cli_json("nodes", "list")[0]["state"] == "live"
    assert lair.cli_json("token", "list")
    assert {finding["status"] for finding in lair.cli_json("doctor")} <= {"ok", "note", "warn"}
    assert lair.cli_json("rm", NAME, "--yes")["directory_kept"] == str(blog)


def test_errors_speak_json_too(lair: Lair) -> None:
    done = lair.cli("show", "demo/nothing", "--json", check=False)
    assert done.returncode == NOT_FOUND
    assert json.loads(done.stderr)["status"] == 404


def test_secrets_are_not_shown(lair: Lair, blog: Path) -> None:
    for command in (["show", NAME], ["show", NAME, "--json"], ["ls", "--json"]):
        assert "hunter2" not in lair.cli(*command).stdout


def test_bad_usage(lair: Lair, blog: Path) -> None:
    one_line(lair, USAGE, "show", "no-slash")
    one_line(lair, USAGE, "create", "Demo/blog", "--", "true")
    one_line(lair, USAGE, "create", "demo/bl", "--", "true")
    one_line(lair, USAGE, "create", "demo/other")
    one_line(lair, USAGE, "create", "demo/other", "--env", "NOVALUE", "--", "true")
    one_line(lair, USAGE, "create", "demo/other", "--idle", "soon", "--", "true")
    one_line(lair, USAGE, "create", "demo/other", "--memory", "much", "--", "true")
    one_line(lair, USAGE, "routes", "set", "a b", "http://127.0.0.1:1")
    one_line(lair, USAGE, "routes", "set", "a.example", "ftp://127.0.0.1:1")
    one_line(lair, USAGE, "routes", "set", "a.example", "127.0.0.1:1", "--buffering", "all")
    one_line(lair, USAGE, "rm", NAME)
    fails(lair, USAGE, "nonsense")
    assert lair.server(NAME)["state"] == "asleep", "nobody was asked, and so nothing was removed"


def test_not_found_and_conflict(lair: Lair, blog: Path) -> None:
    for command in (["show"], ["start"], ["stop"], ["restart"], ["logs"], ["open"], ["rm", "--yes"]):
        assert "demo/nothing" in one_line(lair, NOT_FOUND, *command, "demo/nothing")
    one_line(lair, NOT_FOUND, "routes", "rm", "nothing.example")
    one_line(lair, NOT_FOUND, "token", "revoke", "nothing")
    assert "--update" in one_line(lair, CONFLICT, "create", NAME, "--", *SERVE)


def test_a_server_is_switched_off_and_on(lair: Lair, blog: Path) -> None:
    """Nobody wakes it meanwhile, and what was said of it stays as it was, hidden values too."""
    lair.cli("create", NAME, "--update", "--", sys.executable, "-c", SHOWS_SECRET, "{port}")
    assert lair.get(NAME).text == "hunter2"
    assert lair.cli("disable", NAME).stdout.startswith(f"{NAME} is disabled")
    lair.wait_for(NAME, "asleep")
    assert lair.get(NAME).status == 503
    for command in ("start", "restart"):
        assert f"`lair enable {NAME}`" in one_line(lair, CONFLICT, command, NAME)
    assert "disabled" in lair.cli("ls").stdout
    assert lair.cli("enable", NAME).stdout == f"{NAME} is enabled: a visit wakes it.\n"
    assert lair.get(NAME).text == "hunter2"


SHOWS_SECRET = """
import http.server, os, sys
class Show(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(os.environ["SECRET"].encode())
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Show).serve_forever()
"""


def test_a_failed_start_says_why(lair: Lair, tmp_path: Path) -> None:
    command = ["sh", "-c", "echo the reason >&2; exit 3"]
    lair.cli("create", "demo/fails", "--dir", str(tmp_path), "--", *command)
    said = fails(lair, FAILED, "start", "demo/fails")
    assert "code 3" in said and "the reason" in said
    assert "the reason" in lair.cli("show", "demo/fails").stdout
    lair.cli("rm", "demo/fails", "--yes")


def test_nothing_answers(lair: Lair, tmp_path: Path) -> None:
    said = one_line(lair, UNREACHABLE, "ls", "--api-listen", "127.0.0.1:1")
    assert "lair up" in said


def test_a_wrong_token(lair: Lair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(lair.env, "LAIR_TOKEN", "wrong")
    assert "LAIR_TOKEN" in one_line(lair, 1, "ls")


def test_tokens(lair: Lair, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token is shown once, works, is listed without itself, and is worthless once it is revoked."""
    made = lair.cli_json("token", "create", "--owner", "anna", "--note", "laptop")
    assert "laptop" in lair.cli("token", "list").stdout
    assert made["token"] not in lair.cli("token", "list", "--json").stdout
    monkeypatch.setitem(lair.env, "LAIR_TOKEN", made["token"])
    assert lair.cli("ls").returncode == 0
    one_line(lair, 1, "show", "bert/blog")
    monkeypatch.delitem(lair.env, "LAIR_TOKEN")
    lair.cli("token", "revoke", made["id"])
    monkeypatch.setitem(lair.env, "LAIR_TOKEN", made["token"])
    one_line(lair, 1, "ls")


def test_routes(lair: Lair, blog: Path) -> None:
    """A route of no server: served as soon as the command ends."""
    server = subprocess.Popen(
        [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1"],
        cwd=blog, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    try:
        assert server.stdout
        port = server.stdout.readline().split(" port ")[1].split()[0]
        lair.cli("routes", "set", "own.example", f"127.0.0.1:{port}")
        assert lair.get("own.example").text == "my blog"
        assert f"http://127.0.0.1:{port}" in lair.cli("routes", "list").stdout
        said = lair.cli_json("routes", "set", "own.example", f"127.0.0.1:{port}", "--buffering", "response")
        assert said["settings"]["buffering"] == "response"
        assert lair.get("own.example").text == "my blog"
        lair.cli("routes", "set", "own.example", "https://elsewhere.example", "--redirect")
        assert lair.get("own.example", "/x?y").headers["location"] == "https://elsewhere.example/x?y"
        lair.cli("routes", "rm", "own.example")
        assert lair.get("own.example").headers["lair-state"] == "unknown-host"
    finally:
        server.kill()
        server.wait()
        if server.stdout:
            server.stdout.close()


def test_a_stop_says_when_visitors_woke_the_next_one(lair: Lair, blog: Path) -> None:
    """Under constant visits, `lair stop` still ends with 0: that instance is gone."""
    lair.cli("start", NAME)
    first = lair.server(NAME)["instance"]["id"]
    done = threading.Event()

    def visit() -> None:
        while not done.is_set():
            assert lair.get(NAME).status == 200

    visitors = [threading.Thread(target=visit) for _ in range(4)]
    for visitor in visitors:
        visitor.start()
    try:
        said = lair.cli("stop", NAME).stdout
    finally:
        done.set()
        for visitor in visitors:
            visitor.join()
    assert lair.server(NAME)["instance"]["id"] != first
    assert said in {f"{NAME} sleeps.\n", *(
        f"{NAME}: that instance is gone; visitors have woken the next one already ({state}).\n"
        for state in ("starting", "awake")
    )}  # fmt: skip


def test_logs_are_followed(lair: Lair, blog: Path) -> None:
    """`logs -f` shows a line when it is written, over a sleep and a wake, and ends with Ctrl-C."""
    lair.cli("start", NAME)
    follower = subprocess.Popen(
        [sys.executable, "-m", "sourcelair.cli", "logs", "-f", "-n", "0", NAME],
        env=lair.env, cwd=lair.directory, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert follower.stdout and follower.stderr
    try:
        found = ""
        deadline = time.monotonic() + 20
        os.set_blocking(follower.stdout.fileno(), False)
        while "/first" not in found and time.monotonic() < deadline:
            lair.get(NAME, "/first")
            found += (follower.stdout.read() or b"").decode()
        assert "/first" in found
        lair.cli("stop", NAME)
        lair.get(NAME, "/second")
        while "/second" not in found and time.monotonic() < deadline:
            found += (follower.stdout.read() or b"").decode()
            time.sleep(0.01)
        assert "/second" in found
        follower.send_signal(signal.SIGINT)
        assert follower.wait(10) == 130
        assert b"Traceback" not in follower.stderr.read()
    finally:
        follower.kill()
        follower.wait()
        follower.stdout.close()
        follower.stderr.close()


def test_who_reads_our_output_may_leave(lair: Lair, blog: Path) -> None:
    """`lair ... | head -1` leaves no complaint."""
    command = f"{sys.executable} -m sourcelair.cli show {NAME} | head -1"
    done = subprocess.run(command, shell=True, env=lair.env, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["server", NAME]
    assert done.stderr == ""


def test_doctor(lair: Lair) -> None:
    done = lair.cli("doctor")
    assert "nginx" in done.stdout
    assert lair.cli("doctor", "--api-listen", "127.0.0.1:1", check=False).returncode != 0


def test_the_first_commands_of_the_readme(lair: Lair, tmp_path: Path) -> None:
    """What a newcomer types after `bin/up`, as it stands there; only the log is not followed for ever."""
    if shutil.which("curl") is None:
        pytest.skip("the README uses curl")
    (text,) = re.findall(r"^In another terminal:\n\n```sh\n(.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL)
    text = text.replace("bin/lair", f"{sys.executable} -m sourcelair.cli").replace(":8080", f":{lair.port}")
    done = subprocess.run(
        ["sh", "-euc", text.replace("logs -f", "logs")],
        env=lair.env, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "hi\n" in done.stdout.splitlines(keepends=True)
    assert "lair: " not in done.stderr
    lair.cli("rm", NAME, "--yes")
