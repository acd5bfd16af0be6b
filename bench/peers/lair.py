"""Ours: `lair up` with routes of Ceryx' API, whose targets are on this machine."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bench.asking import Call
from bench.peers.base import Routes, Running
from bench.stage import PROXY_CPU, Stage, until_accepts
from bench.usage import family

SOURCE = Path(__file__).parents[2] / "src"
BATCH = 10_000


class Lair:
    """One node with one NGINX worker. Its processes are NGINX's: the control plane is not on the way of a request."""

    name = "SourceLair"
    program = ""
    most_routes = 1_000_000
    api_connections = 32

    def __init__(self) -> None:
        self.api_port = 0
        self.data_dir = Path()
        self.control_plane = 0
        """Process id of `lair up`."""
        self._token = ""

    def start(self, stage: Stage, routes: Routes, **settings: str) -> Running:
        """Start it, and write all routes by the batch API.

        Args:
            stage: where.
            routes: all of them.
            settings: further ones, such as `LAIR_IDLE_TIMEOUT`.
        """
        folder, port = stage.folder("lair"), stage.free_port()
        self.api_port, self.data_dir = stage.free_port(), folder / "data"
        (folder / "lair.toml").touch()
        kept = {name: "" for name in os.environ if name.startswith("LAIR_")}
        env = {
            **kept,
            "PYTHONPATH": str(SOURCE),
            "LAIR_CONFIG": str(folder / "lair.toml"),
            "LAIR_DATA_DIR": str(self.data_dir),
            "LAIR_LISTEN": f"127.0.0.1:{port}",
            "LAIR_API_LISTEN": f"127.0.0.1:{self.api_port}",
            "LAIR_NGINX_WORKERS": "1",
            "LAIR_ROUTE_TABLE_BYTES": str(max(64 << 20, len(routes) * 320)),
            "LAIR_DEMO": "false",
            **settings,
        }
        process = stage.spawn(
            [sys.executable, "-m", "sourcelair.cli", "up"],
            env={name: value for name, value in env.items() if value},
            cpus=(PROXY_CPU,),
            cwd=folder,
        )
        self.control_plane = process.pid
        until_accepts(port, process)
        self._until_ready(process)
        self.write(routes.items())
        return Running(port, self.nginx)

    def nginx(self) -> list[int]:
        """Return NGINX's processes."""
        return family(int((self.data_dir / "nginx" / "nginx.pid").read_text()))

    def call(self, method: str, path: str, body: Any = None, timeout: float = 120) -> Any:
        """Call the API, and return what it answered as JSON. Raises RuntimeError if it refuses."""
        api = http.client.HTTPConnection("127.0.0.1", self.api_port, timeout=timeout)
        api.request(method, path, None if body is None else json.dumps(body), self._headers())
        answer = api.getresponse()
        text = answer.read()
        if answer.status >= 300:
            raise RuntimeError(f"{method} {path} was answered with {answer.status}: {text[:300]!r}")
        return json.loads(text) if text else None

    def write(self, routes: Iterable[tuple[str, int]]) -> None:
        """Write routes, as many in one transaction as there may be."""
        left = iter(routes)
        while some := list(itertools.islice(left, BATCH)):
            self.call("POST", "/api/routes:batch", _batch(some))

    def change(self, host: str, target: int) -> Call:
        """Return what sets one route."""
        return Call("PUT", f"/api/routes/{host}/", json.dumps(_route(host, target)).encode(), self._headers())

    def changes(self, routes: Routes) -> Call:
        """Return what sets many routes, all or none."""
        body = json.dumps(_batch(routes.items())).encode()
        return Call("POST", "/api/routes:batch", body, self._headers(), len(routes))

    def _headers(self) -> dict[str, str]:
        if not self._token:
            self._token = (self.data_dir / "admin.token").read_text().strip()
        return {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}

    def _until_ready(self, process: Any) -> None:
        until_accepts(self.api_port, process)
        while not self._is_ready():
            if process.poll() is not None:
                raise RuntimeError(f"lair up ended with {process.returncode}")
            time.sleep(0.02)

    def _is_ready(self) -> bool:
        with contextlib.suppress(OSError, RuntimeError):
            self.call("GET", "/readyz")
            return True
        return False


def _route(host: str, target: int) -> dict[str, str]:
    return {"source": host, "target": f"http://127.0.0.1:{target}", "instance": f"i-{target}"}


def _batch(routes: Iterable[tuple[str, int]]) -> dict[str, Any]:
    return {"writes": [{"source": host, "route": _route(host, target)} for host, target in routes]}
