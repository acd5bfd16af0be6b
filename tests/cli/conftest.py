"""The command line in this process, and an API that answers whatever a test wants it to."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import structlog

import sourcelair
from sourcelair.cli import main
from sourcelair.errors import PROBLEM_JSON

TOKEN = "a-token-of-the-tests"


@dataclass(frozen=True)
class Done:
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line on standard error."""
        assert self.err.count("\n") == 1, self.err
        return self.err.removesuffix("\n")


Run = Callable[..., Done]


@pytest.fixture
def lair(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """Run `lair ARGUMENTS` in this process, with a data directory and a working directory of the test's own."""
    for name in os.environ:
        if name.startswith("LAIR_"):
            monkeypatch.delenv(name)
    (tmp_path / "lair.toml").touch()
    monkeypatch.setenv("LAIR_CONFIG", str(tmp_path / "lair.toml"))
    monkeypatch.setenv("LAIR_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("LAIR_TOKEN", TOKEN)
    monkeypatch.setenv("LAIR_API_LISTEN", "127.0.0.1:1")  # nobody is there
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("PYTHONPATH", str(Path(sourcelair.__file__).parents[1]))  # for processes that it starts
    monkeypatch.chdir(tmp_path)
    interrupted = signal.getsignal(signal.SIGINT)

    def run(*arguments: str) -> Done:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        said = capsys.readouterr()
        return Done(int(ended.value.code or 0), said.out, said.err)

    yield run
    signal.signal(signal.SIGINT, interrupted)
    structlog.reset_defaults()  # `lair up` logs to the standard error that it has here, which is closed afterwards


@dataclass
class Api:
    """An API whose answers are made up: `(status, content type, body)`, by method and path without its query."""

    answers: dict[tuple[str, str], Callable[[Any], tuple[int, str, bytes]]] = field(default_factory=dict)
    seen: list[tuple[str, str, Any, Message]] = field(default_factory=list)
    """What was asked: method, path, decoded body and headers."""
    headers: dict[str, str] = field(default_factory=dict)
    """Sent with every answer."""

    def answer(self, method: str, path: str, body: Any, status: int = 200) -> None:
        """Answer with JSON; as a problem where the status says so."""
        kind = "application/json" if status < 400 else PROBLEM_JSON
        self.answers[method, path] = lambda _: (status, kind, json.dumps(body).encode())

    def take(self, method: str, path: str, sent: bytes, headers: Message) -> tuple[int, str, bytes]:
        """Note what was asked, and return the answer."""
        path = path.partition("?")[0]
        body = json.loads(sent) if sent else None
        self.seen.append((method, path, body, headers))
        make = self.answers.get((method, path))
        if make is None:
            return 404, PROBLEM_JSON, json.dumps({"detail": f"No server found for {path}."}).encode()
        return make(body)


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch, lair: Run) -> Iterator[Api]:
    """An API on a free port, which `lair` finds."""
    made = Api()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, kind, body = made.take(self.command, self.path, sent, self.headers)
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            for name, value in made.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_PUT = do_POST = do_DELETE = handle_any  # noqa: N815 - names of http.server

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setenv("LAIR_API_LISTEN", f"127.0.0.1:{server.server_address[1]}")
        try:
            yield made
        finally:
            server.shutdown()
            thread.join()


def a_server(**changes: Any) -> dict[str, Any]:
    """A server as the API shows it."""
    return {
        "owner": "demo",
        "project": "blog",
        "url": "http://blog--demo.localhost:8080",
        "hosts": ["blog--demo.localhost"],
        "spec": {"command": ["true"], "directory": "/"},
        "enabled": True,
        "always_on": False,
        "desired": "asleep",
        "state": "asleep",
        "revision": 7,
        "created_at": 1.0,
        "changed_at": 1.0,
        **changes,
    }
