"""What the APIs say to bad input, to strangers, and to those who ask for too much. Nothing is half written."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from tests.system.lair import Answer, Lair

pytestmark = pytest.mark.system

BLOG = "/api/servers/demo/blog/"
COMMAND = [sys.executable, "-m", "http.server", "{port}", "--bind", "127.0.0.1"]


def body(**changes: Any) -> dict[str, Any]:
    """A server that could be created, but for these changes of its spec."""
    return {"spec": {"command": COMMAND, "directory": "/tmp", **changes}}


def check_problem(answer: Answer, status: int, *words: str) -> None:
    """It is problem+json (RFC 9457), with these words in its detail, and no traceback."""
    assert answer.status == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == status
    assert problem["title"]
    for word in words:
        assert word in problem["detail"]
    assert "Traceback" not in answer.text
    assert "\n" not in problem["detail"]


@pytest.mark.parametrize("path", [BLOG, "/api/routes/", "/api/tokens", "/waker/wake"])
@pytest.mark.parametrize("content", [b"{", b"", b"\xff\xfe", b'{"a": NaN}', b"[" * 50_000])
def test_malformed_json(lair: Lair, path: str, content: bytes) -> None:
    """400 or 422, never 500; and nothing exists afterwards."""
    method = "PUT" if path == BLOG else "POST"
    answer = lair.call(method, path, content, headers={"Content-Type": "application/json"})
    assert answer.status in {400, 422}
    check_problem(answer, answer.status)
    assert lair.call("GET", BLOG).status == 404


@pytest.mark.parametrize(
    ("path", "sent", "word"),
    [
        (BLOG, {**body(), "enabeld": True}, "enabeld"),
        (BLOG, body(commnad=[]), "spec.commnad"),
        (BLOG, body(sleep={"idle": 3}), "spec.sleep.idle"),
        (BLOG, body(limits={"memory": 1}), "spec.limits.memory"),
        ("/api/routes/", {"source": "a.example", "target": "http://h:1", "colour": "red"}, "colour"),
        ("/api/routes/", {"source": "a.example", "target": "http://h:1", "settings": {"mod": "x"}}, "settings.mod"),
        ("/api/tokens", {"kind": "admin", "nte": "x"}, "nte"),
    ],
)
def test_unknown_fields_are_named(lair: Lair, path: str, sent: Any, word: str) -> None:
    """A misspelt setting that is ignored would be believed."""
    check_problem(lair.call("PUT" if path == BLOG else "POST", path, sent), 422, word)


@pytest.mark.parametrize(
    ("spec", "word"),
    [
        ({"command": []}, "spec.command"),
        ({"command": ["sh", "-c", "a\0b"]}, "spec.command"),
        ({"command": ["x" * 200_000]}, "spec.command"),
        ({"command": "python -m http.server"}, "spec.command"),
        ({"directory": "relative/path"}, "spec.directory"),
        ({"directory": "/a\0b"}, "spec.directory"),
        ({"env": {"A B": "x"}}, "A B"),
        ({"env": {"PORT": "1"}}, "PORT"),
        ({"env": {"A": "x\0y"}}, "spec.env.A"),
        ({"driver": "docker"}, "spec.driver"),
        ({"readiness": {"path": "no-slash"}}, "spec.readiness.path"),
        ({"readiness": {"path": "/x\r\nHost: other"}}, "spec.readiness.path"),
        ({"readiness": {"probe_timeout": 0}}, "spec.readiness.probe_timeout"),
        ({"limits": {"processes": 0}}, "spec.limits.processes"),
        ({"sleep": {"stop_after": -1}}, "spec.sleep.stop_after"),
        ({"sleep": {"stop_after": "Infinity"}}, "spec.sleep.stop_after"),
    ],
)
def test_a_spec_that_makes_no_sense(lair: Lair, spec: dict[str, Any], word: str) -> None:
    """422 with the field; nothing is created."""
    check_problem(lair.call("PUT", BLOG, body(**spec)), 422, word)
    assert lair.call("GET", BLOG).status == 404


BREAK = "x\r\nX-Evil: 1"


@pytest.mark.parametrize(
    ("path", "sent"),
    [
        ("/api/routes/", {"source": f"a.example{BREAK}", "target": "http://h:1"}),
        ("/api/routes/", {"source": "a.example", "target": f"http://h:1/{BREAK}"}),
        ("/api/routes/", {"source": "a.example", "target": None, "waker": f"http://h:1/{BREAK}"}),
        ("/api/routes/", {"source": "a.example", "target": f"http://h{BREAK}", "settings": {"mode": "redirect"}}),
        ("/api/routes/", {"source": "a.example", "target": "http://h:1", "instance": BREAK}),
        ("/api/routes/", {"source": "a.example", "target": "http://h:1", "managed_by": BREAK}),
        (BLOG, {**body(), "hosts": [f"a.example{BREAK}"]}),
        (BLOG, body(driver=BREAK)),
        (BLOG, body(env={BREAK: "x"})),
        (BLOG, body(readiness={"path": f"/{BREAK}"})),
        ("/api/servers/demo%0d%0aX/blog/", body()),
        ("/api/servers/demo/blog%0d%0aX/", body()),
        ("/api/routes/a.example%0d%0aX/", {"source": "a.example", "target": "http://h:1"}),
        ("/api/tokens", {"kind": f"admin{BREAK}"}),
        ("/api/tokens", {"kind": "owner", "owner": f"demo{BREAK}"}),
        ("/waker/wake", {"source": f"a{BREAK}", "reason": "asleep", "method": "GET", "path": "/", "node": "n"}),
        (f"{BLOG}start", {"cause": BREAK}),
        (f"{BLOG}sleep", {"instance": BREAK, "totals": []}),
    ],
)
def test_line_breaks_in_any_field(lair: Lair, path: str, sent: Any) -> None:
    """They are refused where a name, a host or a URL is meant, and never become a header."""
    put = (path.startswith("/api/servers/") and path.endswith("/")) or "%0d" in path
    answer = lair.call("PUT" if put else "POST", path, sent)
    assert 400 <= answer.status < 500, answer.text
    assert "x-evil" not in answer.headers
    check_problem(answer, answer.status)


@pytest.mark.parametrize("path", [BLOG, "/api/routes/", "/api/tokens", "/waker/wake", f"{BLOG}start"])
@pytest.mark.parametrize("announced", [True, False])
def test_ten_megabytes_of_json(lair: Lair, path: str, announced: bool) -> None:
    """413 at once where the length is announced, as soon as it is too long where it is not."""
    content = json.dumps({"spec": {"command": ["x" * (10 << 20)]}}).encode()
    connection = http.client.HTTPConnection("127.0.0.1", lair.api_port, timeout=30)
    headers = {"Authorization": f"Bearer {lair.token}", "Content-Type": "application/json"}
    method = "PUT" if path == BLOG else "POST"
    pieces = (content[at : at + 65536] for at in range(0, len(content), 65536))
    try:
        connection.request(method, path, content if announced else pieces, headers, encode_chunked=not announced)
        status = connection.getresponse().status
    except (BrokenPipeError, ConnectionResetError):
        status = 413  # it hung up in the middle, and read no more: what a client of a long upload sees
    finally:
        connection.close()
    assert status == 413
    assert lair.call("GET", BLOG).status == 404


@pytest.mark.parametrize("token", [None, "nonsense", "x" * 5000])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/servers/"),
        ("PUT", BLOG),
        ("GET", "/api/routes/"),
        ("GET", "/api/events"),
        ("POST", "/waker/wake"),
        ("GET", "/metrics"),
        ("POST", "/api/shutdown"),
        ("GET", "/api/tokens"),
    ],
)
def test_without_a_token_it_is_401(lair: Lair, method: str, path: str, token: str | None) -> None:
    """Missing and wrong tokens are one answer, which says how to ask."""
    answer = lair.call(method, path, token=token)
    check_problem(answer, 401)
    assert answer.headers["www-authenticate"].startswith("Bearer")


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_monitors_need_no_token(lair: Lair, path: str) -> None:
    assert lair.call("GET", path, token=None).status == 200


@pytest.mark.parametrize("path", ["/docs", "/openapi.json"])
def test_the_apis_describe_themselves(lair: Lair, path: str) -> None:
    answer = lair.call("GET", path, token=None)
    assert answer.status == 200
    assert b"/api/servers/" in answer.body or path == "/docs"


def token(lair: Lair, *flags: str) -> str:
    """Create a token as a person does."""
    made: str = lair.cli_json("token", "create", *flags)["token"]
    return made


def test_an_owners_token_reaches_its_own_servers_only(lair: Lair) -> None:
    """Others' servers can't be told from what does not exist: 403 for all of them."""
    mine = token(lair, "--owner", "anna")
    assert lair.call("PUT", "/api/servers/anna/blog/", body(), token=mine).status == 201
    assert lair.call("PUT", "/api/servers/bert/blog/", body()).status == 201
    try:
        shown = lair.call("GET", "/api/servers/", token=mine).json()
        assert [(each["owner"], each["project"]) for each in shown] == [("anna", "blog")]
        for project in ("blog", "nothing"):
            path = f"/api/servers/bert/{project}/"
            check_problem(lair.call("GET", path, token=mine), 403)
            check_problem(lair.call("PUT", path, body(), token=mine), 403)
            check_problem(lair.call("DELETE", path, token=mine), 403)
            check_problem(lair.call("GET", f"{path}logs", token=mine), 403)
            for action in ("start", "stop", "restart"):
                check_problem(lair.call("POST", f"{path}{action}", token=mine), 403)
        check_problem(lair.call("POST", "/api/routes/", {"source": "a.b", "target": "h:1"}, token=mine), 403)
        check_problem(lair.call("POST", "/api/shutdown", token=mine), 403)
        check_problem(lair.call("POST", "/api/tokens", {"kind": "admin"}, token=mine), 403)
        hosts = {**body(), "hosts": ["bank.example"]}
        check_problem(lair.call("PUT", "/api/servers/anna/blog/", hosts, token=mine), 403, "administrator")
    finally:
        lair.cli("rm", "anna/blog", "--yes")
        lair.cli("rm", "bert/blog", "--yes")


def test_a_read_only_token_changes_nothing(lair: Lair) -> None:
    reader = token(lair, "--kind", "read")
    assert lair.call("GET", "/api/servers/", token=reader).status == 200
    check_problem(lair.call("PUT", BLOG, body(), token=reader), 403)
    check_problem(lair.call("POST", f"{BLOG}start", token=reader), 403)
    check_problem(lair.call("POST", "/api/routes/", {"source": "a.b", "target": "h:1"}, token=reader), 403)


def test_two_creates_at_once_are_one_server(lair: Lair) -> None:
    """With `If-None-Match: *` one of ten is a 201, the others 412; without, all agree on one server."""
    answers: list[int] = []

    def create(**headers: str) -> None:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        answers.append(lair.call("PUT", "/api/servers/demo/twice/", body(), headers=sent).status)

    def ten(**headers: str) -> list[int]:
        answers.clear()
        threads = [threading.Thread(target=create, kwargs=headers) for _ in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sorted(answers)

    assert ten(If_None_Match="*") == [201] + [412] * 9
    lair.cli("rm", "demo/twice", "--yes")
    assert ten() == [200] * 9 + [201]
    lair.cli("rm", "demo/twice", "--yes")


def read_events(lair: Lair, count: int, **headers: str) -> list[tuple[int, dict[str, Any]]]:
    """Read that many events of `/api/events`."""
    lines = [f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items()]
    query = "" if headers else "?from=1"
    with socket.create_connection(("127.0.0.1", lair.api_port), 20) as connection, connection.makefile("rb") as stream:
        connection.sendall(
            f"GET /api/events{query} HTTP/1.0\r\nAuthorization: Bearer {lair.token}\r\n{''.join(lines)}\r\n".encode()
        )
        assert b" 200 " in stream.readline()
        found: list[tuple[int, dict[str, Any]]] = []
        number = 0
        while len(found) < count:
            line = stream.readline().decode()
            assert line, "the stream ended"
            if line.startswith("id: "):
                number = int(line[4:])
            elif line.startswith("data: "):
                found.append((number, json.loads(line[6:])))
        return found


def test_events_lose_nothing_on_reconnect(lair: Lair) -> None:
    """`Last-Event-ID` goes on right after it, and values of variables are never in an event."""
    secret = "hunter2-hunter2"
    assert lair.call("PUT", "/api/servers/demo/evented/", body(env={"SECRET": secret})).status == 201
    lair.cli("start", "demo/evented")
    lair.cli("rm", "demo/evented", "--yes")
    first = read_events(lair, 1)
    after, _ = first[0]
    everything = read_events(lair, 3)
    assert read_events(lair, 2, Last_Event_ID=str(after)) == everything[1:3]
    numbers = [number for number, _ in everything]
    assert numbers == sorted(set(numbers))
    assert secret not in json.dumps(everything)


def test_a_managed_route_cannot_be_changed_past_its_server(lair: Lair) -> None:
    assert lair.call("PUT", "/api/servers/demo/managed/", body()).status == 201
    host = "managed--demo.localhost"
    for method, sent in (("PUT", {"source": host, "target": "http://h:1"}), ("DELETE", None)):
        check_problem(lair.call(method, f"/api/routes/{host}/", sent), 409, "sourcelair-api")
    assert lair.cli("routes", "rm", host, check=False).returncode != 0
    lair.cli("rm", "demo/managed", "--yes")
    assert lair.call("GET", f"/api/routes/{host}/").status == 404


def test_secrets_are_in_no_argument_and_no_log(lair: Lair) -> None:
    """Tokens and values of variables are in no process's arguments, no log and no list."""
    secret = "correct-horse-battery"
    assert lair.call("PUT", "/api/servers/demo/private/", body(env={"API_KEY": secret})).status == 201
    lair.cli("start", "demo/private")
    listing = subprocess.run(["ps", "-eww", "-o", "args"], capture_output=True, text=True, check=True).stdout
    shown = lair.call("GET", "/api/servers/").text + lair.cli("show", "demo/private").stdout
    logs = lair.output + "".join(
        path.read_text(errors="replace") for path in Path(lair.data_dir, "logs").rglob("*.log")
    )
    for text in (listing, shown, logs, Path(lair.data_dir, "nginx", "nginx.conf").read_text()):
        assert secret not in text
        assert lair.token not in text
    lair.cli("rm", "demo/private", "--yes")
    for path in lair.data_dir.glob("*.token"):
        assert path.stat().st_mode & 0o777 == 0o600
    assert lair.data_dir.stat().st_mode & 0o777 == 0o700
