"""Ours: `lair up` with routes of Ceryx' API, whose targets are on this machine."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from bench.asking import Call
from bench.peers.base import Routes, Running
from bench.stage import PROXY_CPU, Stage, until_accepts
from bench.usage import family

SOURCE = Path(__file__).parents[2] / "src"
BATCH = 10_000

DOWN = 600.0
"""Seconds that all of it may take to stop; with a thousand servers up that is minutes."""


END = 60.0
"""Seconds that the control plane alone may take to end."""

BYTES_PER_ROUTE = 320
"""Room in the table: promised are 300 at most, and the table itself needs some."""


def table_bytes(routes: int) -> str:
    """Return the setting for a table in which so many routes fit."""
    return str(max(64 << 20, routes * BYTES_PER_ROUTE))


class Lair:
    """One node with one NGINX worker. Its processes are NGINX's: the control plane is not on the way of a request."""

    name = "SourceLair"
    program = ""
    most_routes = 1_000_000
    api_connections = 32

    def __init__(self) -> None:
        self.port = 0
        self.api_port = 0
        self.data_dir = Path()
        self.env: dict[str, str] = {}
        self.process: subprocess.Popen[bytes] | None = None
        """`lair up`."""
        self._token = ""
        self._connections = threading.local()

    @property
    def control_plane(self) -> int:
        """Return the process id of `lair up`."""
        assert self.process is not None
        return self.process.pid

    def changing(self) -> list[int]:
        """Return the processes that a change takes: the control plane, and what comes from it."""
        return family(self.control_plane)

    def start(self, stage: Stage, routes: Routes, **settings: str) -> Running:
        """Start it, and write all routes by the batch API. Whatever runs of it is stopped with the stage.

        Args:
            stage: where.
            routes: all of them.
            settings: further ones, such as `LAIR_IDLE_TIMEOUT`.
        """
        folder = stage.folder("lair")
        self.port, self.api_port, self.data_dir = stage.free_port(), stage.free_port(), folder / "data"
        (folder / "lair.toml").touch()
        kept = {name: "" for name in os.environ if name.startswith("LAIR_")}
        self.env = {
            **kept,
            "PYTHONPATH": str(SOURCE),
            "LAIR_CONFIG": str(folder / "lair.toml"),
            "LAIR_DATA_DIR": str(self.data_dir),
            "LAIR_LISTEN": f"127.0.0.1:{self.port}",
            "LAIR_API_LISTEN": f"127.0.0.1:{self.api_port}",
            "LAIR_NGINX_WORKERS": "1",
            "LAIR_ROUTE_TABLE_BYTES": table_bytes(len(routes)),
            "LAIR_DEMO": "false",
            **settings,
        }
        stage.enter(self._stopped())
        self.up(stage)
        until_accepts(self.port, self.process)
        self.until_ready()
        self.write(routes.items())
        return Running(self.port, self.nginx)

    def up(self, stage: Stage) -> None:
        """Start `lair up`, the first time or again, and wait for nothing."""
        command = [sys.executable, "-m", "sourcelair.cli", "up"]
        self.process = stage.spawn(command, env=self.env, cpus=(PROXY_CPU,), cwd=self.data_dir.parent)

    def down(self) -> None:
        """Stop all of it: the control plane, NGINX, and servers, which have sessions of their own."""
        command = [sys.executable, "-m", "sourcelair.cli", "down"]
        with (self.data_dir.parent / "output.log").open("ab") as output:
            env = {**os.environ, **self.env}
            subprocess.run(command, env=env, stdout=output, stderr=output, timeout=DOWN, check=True)

    def end_control_plane(self, number: signal.Signals) -> None:
        """Send a signal to the control plane that ends it, and wait until it has ended."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)
            self.process.wait(END)

    def kill_nginx(self) -> None:
        """Kill all of NGINX's processes."""
        for pid in self.nginx():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    @contextlib.contextmanager
    def _stopped(self) -> Iterator[None]:
        try:
            yield
        finally:
            with contextlib.suppress(subprocess.SubprocessError):  # what was measured is not lost with it
                self.down()

    def nginx(self) -> list[int]:
        """Return NGINX's processes."""
        return family(int((self.data_dir / "nginx" / "nginx.pid").read_text()))

    def call(self, method: str, path: str, body: Any = None, timeout: float = 120) -> Any:
        """Call the API, and return what it answered as JSON. Raises RuntimeError if it refuses."""
        api = self._connection(timeout)
        try:
            api.request(method, path, None if body is None else json.dumps(body), self._headers())
            answer = api.getresponse()
            text = answer.read()
        except BaseException:
            api.close()  # it connects anew with the next request
            raise
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

    def _connection(self, timeout: float) -> http.client.HTTPConnection:
        """Return this thread's connection to the API: ten thousand calls need not be as many connections."""
        api: http.client.HTTPConnection | None = getattr(self._connections, "api", None)
        if api is None or api.port != self.api_port:
            api = self._connections.api = http.client.HTTPConnection("127.0.0.1", self.api_port)
        api.timeout = timeout
        if api.sock is not None:
            api.sock.settimeout(timeout)
        return api

    def until_ready(self, part: str | None = None) -> None:
        """Wait until `/readyz` says that it is ready, or one part of it (`agent`: visitors are served by the table).

        Raises:
            RuntimeError: it ended.
        """
        while not self._is_ready(part):
            if self.process is not None and self.process.poll() is not None:
                raise RuntimeError(f"lair up ended with {self.process.returncode}")
            time.sleep(0.02)

    def _is_ready(self, part: str | None) -> bool:
        with contextlib.suppress(OSError, http.client.HTTPException):
            api = http.client.HTTPConnection("127.0.0.1", self.api_port, timeout=10)
            try:
                api.request("GET", "/readyz")
                said = json.loads(api.getresponse().read())
            finally:
                api.close()
            return bool(said["ready"] if part is None else said["parts"][part])
        return False


def _route(host: str, target: int) -> dict[str, str]:
    return {"source": host, "target": f"http://127.0.0.1:{target}", "instance": f"i-{target}"}


def _batch(routes: Iterable[tuple[str, int]]) -> dict[str, Any]:
    return {"writes": [{"source": host, "route": _route(host, target)} for host, target in routes]}
