"""Routes of paths and of wildcard hosts on a real installation: real servers behind them, and a waker of our own."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from tests.servers.drivers.subjects import free_port
from tests.system.lair import Lair

pytestmark = pytest.mark.system


class Waker:
    """Starts a file server for whatever route it is asked for, and publishes it: as a reader of the reference would."""

    def __init__(self, lair: Lair, directory: Path, stack: ExitStack) -> None:
        self.lair, self.directory, self._stack = lair, directory, stack
        self.wakes: list[dict[str, Any]] = []
        waker = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                waker.wakes.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                body = json.dumps(waker.wake(waker.wakes[-1])).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        stack.callback(thread.join)
        stack.callback(server.server_close)
        stack.callback(server.shutdown)
        self.url = f"http://127.0.0.1:{server.server_port}"

    def serve(self, name: str) -> str:
        """Run a server whose files say its name; return its URL."""
        folder = self.directory / quote(name, safe="")
        (folder / "deep").mkdir(parents=True)
        for path in (folder / "index.html", folder / "deep" / "page.html"):
            path.write_text(name)
        port = free_port()
        command = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1", "--directory", str(folder)]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        self._stack.callback(process.wait)
        self._stack.callback(process.kill)
        deadline = time.monotonic() + 20
        while not _listens(port):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.01)
        return f"http://127.0.0.1:{port}"

    def wake(self, order: dict[str, Any]) -> dict[str, Any]:
        """Publish a target for the source, with the settings of the route by which it was asked for."""
        route = self.lair.call("GET", f"/api/routes/{quote(order.get('route') or order['source'], safe='')}/").json()
        route |= {"source": order["source"], "target": self.serve(order["source"]), "instance": f"i-{len(self.wakes)}"}
        put = self.lair.call("PUT", f"/api/routes/{quote(order['source'], safe='')}/", route)
        return {"instance": route["instance"], "revision": int(put.headers["etag"].strip('"'))}


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def waker(lair: Lair, tmp_path: Path) -> Iterator[Waker]:
    with ExitStack() as stack:
        yield Waker(lair, tmp_path / "served", stack)


def test_paths_and_wildcards_beside_a_server(lair: Lair, waker: Waker, tmp_path: Path) -> None:
    """Each is woken by visits to it alone; all go on when NGINX and the control plane were killed."""
    hello = tmp_path / "hello"
    hello.mkdir()
    (hello / "index.html").write_text("hello")
    lair.cli("create", "demo/hello", "--dir", str(hello), "--", "python3", "-m", "http.server", "{port}")
    host = "hello--demo.localhost"
    docs = f"{host}/docs"
    shown = lair.cli_json("routes", "set", f"{host.upper()}/d%6Fcs/", "--waker", waker.url, "--strip-prefix")
    assert (shown["source"], shown["settings"]["strip_prefix"]) == (docs, True)
    lair.cli("routes", "set", "*.apps.example", "--waker", waker.url)
    lair.cli("routes", "set", "*.apps.example/static", waker.serve("static"), "--strip-prefix")

    answer = lair.get(host, "/docs/deep/page.html")
    assert (answer.status, answer.text) == (200, docs)
    assert lair.server("demo/hello")["state"] == "asleep", "a visit to a path's route woke its host's server"
    assert [(wake["source"], wake["path"]) for wake in waker.wakes] == [(docs, "/docs/deep/page.html")]
    assert lair.get(host).text == "hello"
    assert lair.get(host, "/docsy").status == 404, "the host's own app's word"
    assert lair.get(host, "/docs/../").status == 400

    answer = lair.get("blue.apps.example")
    assert answer.text == "blue.apps.example"
    assert (waker.wakes[-1]["source"], waker.wakes[-1]["route"]) == ("blue.apps.example", "*.apps.example")
    assert lair.get("x.blue.apps.example").text == "x.blue.apps.example"
    assert lair.get("red.apps.example", "/static/").text == "static"
    assert lair.get("apps.example").headers["lair-state"] == "unknown-host"

    def all_answer() -> bool:
        return [
            lair.get(host, "/docs/").text,
            lair.get(host).text,
            lair.get("blue.apps.example").text,
            lair.get("red.apps.example", "/static/deep/page.html").text,
        ] == [docs, "hello", "blue.apps.example", "static"]

    assert all_answer()
    wakes = len(waker.wakes)
    before = {process.pid for process in lair.nginx()}
    for process in lair.nginx():
        process.kill()
    deadline = time.monotonic() + 30
    while not lair.nginx() or before & {process.pid for process in lair.nginx()} or not _listens(lair.port):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert all_answer(), "NGINX was filled anew"
    lair.signal(signal.SIGKILL)
    assert all_answer(), "without a control plane"
    lair.start()
    assert all_answer()
    assert len(waker.wakes) == wakes
    assert {"*.apps.example", docs, host} <= {route["source"] for route in lair.cli_json("routes", "list")["routes"]}
    lair.cli("routes", "rm", docs)
    assert lair.get(host, "/docs/").status == 404
    lair.cli("rm", "demo/hello", "--yes")
