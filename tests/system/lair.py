"""A real `lair up` for tests: on ports and in a data directory of its own, and gone at the end, whatever happened.

Everything is found and ended by its id: the control plane by its process, NGINX by the data directory on its command
line, instances by the installation's id in their environment.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import psutil
from tests.ports import BLOCK, claim_ports

SOURCE = Path(__file__).parents[2] / "src"

START_TIMEOUT = 40.0
"""Seconds in which `lair up` must be ready on a busy test machine."""


@dataclass(frozen=True)
class Answer:
    """What came back. Header names are lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode(errors="replace")

    def json(self) -> Any:
        return json.loads(self.body)


class Lair:
    """One installation.

    Args:
        directory: empty; the data directory is `directory/data`.
        env: further settings, such as `LAIR_PATIENCE="0.2"`.
        command: what is run: all of it, or a part such as `("ceryx", "--role", "proxy")`.
        data_dir: where another part lies, to share it.
    """

    def __init__(
        self,
        directory: Path,
        env: Mapping[str, str] | None = None,
        *,
        command: tuple[str, ...] = ("up",),
        data_dir: Path | None = None,
    ) -> None:
        self.directory = directory
        self.command = command
        self.data_dir = data_dir or directory / "data"
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "lair.toml").touch()
        self._base, self._claim = claim_ports()
        self.port = self._base
        self.api_port = self._base + 1
        kept = {name: value for name, value in os.environ.items() if not name.startswith("LAIR_")}
        self.env = {
            **kept,
            "PYTHONPATH": str(SOURCE),
            "LAIR_CONFIG": str(directory / "lair.toml"),
            "LAIR_DATA_DIR": str(self.data_dir),
            "LAIR_LISTEN": f"127.0.0.1:{self.port}",
            "LAIR_API_LISTEN": f"127.0.0.1:{self.api_port}",
            "LAIR_PORT_RANGE": f"{self._base + 10}-{self._base + BLOCK - 1}",
            "LAIR_DEMO": "false",
            "LAIR_LOG_FORMAT": "json",
            "NO_COLOR": "1",
            "COLUMNS": "200",
            **(env or {}),
        }
        self.up: subprocess.Popen[bytes] | None = None
        self._output: IO[bytes] | None = None

    # -- the control plane ------------------------------------------------------------------------------------------

    @property
    def output(self) -> str:
        """All that every `lair up` of this Lair printed, logs too."""
        path = self.directory / "up.log"
        return path.read_text(errors="replace") if path.exists() else ""

    @property
    def api(self) -> str:
        """Base URL of the APIs."""
        return f"http://127.0.0.1:{self.api_port}"

    @property
    def token(self) -> str:
        """The administrator's token."""
        return (self.data_dir / "admin.token").read_text().strip()

    def start(self, *flags: str, wait: bool = True) -> None:
        """Start `lair up` in the foreground of a process group of its own, and wait until it is ready."""
        assert self.up is None or self.up.poll() is not None, "it runs already"
        self.directory.mkdir(parents=True, exist_ok=True)
        with (self.directory / "up.log").open("ab") as output:
            self.up = subprocess.Popen(
                [sys.executable, "-m", "sourcelair.cli", *self.command, *flags],
                env=self.env,
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                process_group=0,
            )
        if wait:
            self.wait_ready()

    def wait_ready(self) -> None:
        """Wait until a visit would be served."""
        assert self.up is not None
        deadline = time.monotonic() + START_TIMEOUT
        while not self.is_ready():
            if self.up.poll() is not None:
                raise AssertionError(f"lair up ended with {self.up.returncode}:\n{self.output[-4000:]}")
            if time.monotonic() > deadline:
                raise AssertionError(f"lair up is not ready after {START_TIMEOUT} s:\n{self.output[-4000:]}")
            time.sleep(0.02)

    def is_ready(self) -> bool:
        """Whether `/readyz` answers 200; a proxy node alone opens no API, and says so in words."""
        if "proxy" in self.command:
            return "Up in" in self.output
        with contextlib.suppress(OSError, http.client.HTTPException):
            return self.call("GET", "/readyz", token=None).status == 200
        return False

    def signal(self, number: signal.Signals, *, wait: float | None = 30.0) -> int | None:
        """Send the control plane a signal; with `wait` (seconds), return its exit code."""
        assert self.up is not None
        self.up.send_signal(number)
        return None if wait is None else self.up.wait(wait)

    def kill9(self) -> None:
        """Kill the control plane, and nothing else."""
        self.signal(signal.SIGKILL)

    def terminate(self) -> int | None:
        """End the control plane as systemd does; NGINX and servers go on."""
        return self.signal(signal.SIGTERM)

    def stop(self) -> int | None:
        """Stop everything, as Ctrl-C does."""
        return self.signal(signal.SIGINT)

    # -- the command line and the APIs ------------------------------------------------------------------------------

    def cli(self, *arguments: str, check: bool = True, timeout: float = 90.0) -> subprocess.CompletedProcess[str]:
        """Run `lair ARGUMENTS`; with `check`, it must end with 0."""
        done = subprocess.run(
            [sys.executable, "-m", "sourcelair.cli", *arguments],
            env=self.env,
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if check and done.returncode != 0:
            raise AssertionError(f"lair {' '.join(arguments)}: {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def cli_json(self, *arguments: str) -> Any:
        """Run `lair ARGUMENTS --json` and return what it printed. Arguments after `--` stay last."""
        before, dashes, after = list(arguments), [], []
        if "--" in before:
            cut = before.index("--")
            before, dashes, after = before[:cut], ["--"], before[cut + 1 :]
        return json.loads(self.cli(*before, "--json", *dashes, *after).stdout)

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        token: str | None = "",
        headers: Mapping[str, str] | None = None,
        timeout: float = 70.0,
    ) -> Answer:
        """Call an API. `token`: "" is the administrator's, None sends none; a body that is no bytes is sent as JSON."""
        sent = dict(headers or {})
        if token is not None:
            sent["Authorization"] = f"Bearer {token or self.token}"
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
            sent.setdefault("Content-Type", "application/json")
        return _request(self.api_port, method, path, body, sent, timeout)

    # -- visits -----------------------------------------------------------------------------------------------------

    def host(self, name: str) -> str:
        """The public host of `owner/project`."""
        owner, _, project = name.partition("/")
        return f"{project}--{owner}.localhost"

    def url(self, name: str, path: str = "/") -> str:
        """The public URL of `owner/project` (or of a host)."""
        host = self.host(name) if "/" in name else name
        return f"http://{host}:{self.port}{path}"

    def get(
        self,
        host: str,
        path: str = "/",
        *,
        method: str = "GET",
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float = 70.0,
    ) -> Answer:
        """Visit a host (or `owner/project`), as a program does: it is held until the server is awake."""
        host = self.host(host) if "/" in host else host
        sent = {"Host": f"{host}:{self.port}", "User-Agent": "lair-tests", **(headers or {})}
        return _request(self.port, method, path, body, sent, timeout)

    def connect(self, timeout: float = 70.0) -> socket.socket:
        """Return a bare connection to NGINX."""
        return socket.create_connection(("127.0.0.1", self.port), timeout)

    # -- what runs --------------------------------------------------------------------------------------------------

    def server(self, name: str) -> dict[str, Any]:
        """The server as the API shows it."""
        answer = self.call("GET", f"/api/servers/{name}/")
        assert answer.status == 200, answer.text
        shown: dict[str, Any] = answer.json()
        return shown

    def wait_for(self, name: str, *states: str, timeout: float = 30.0) -> dict[str, Any]:
        """Wait until a server is in one of these states."""
        deadline = time.monotonic() + timeout
        while (server := self.server(name))["state"] not in states:
            if time.monotonic() > deadline:
                raise AssertionError(f"{name} is {server['state']} after {timeout} s, not {states}: {server}")
            time.sleep(0.02)
        return server

    def nginx(self) -> list[psutil.Process]:
        """All NGINX processes of this Lair, the master first."""
        found = [
            process
            for process in psutil.process_iter()
            if _says(process, "nginx") and str(self.data_dir) in _command_line_of(process)
        ]
        masters = {process.pid for process in found}
        workers = [child for process in found for child in _children(process) if child.pid not in masters]
        return found + workers

    def instances(self) -> list[psutil.Process]:
        """All processes of this Lair's project servers."""
        path = self.data_dir / "installation"
        if not path.exists():
            return []
        mark = path.read_text().strip()
        return [process for process in psutil.process_iter() if _environment_of(process, "LAIR_INSTALLATION") == mark]

    def close(self) -> None:
        """End all of it: politely, then by id."""
        try:
            if self.up is not None and self.up.poll() is None:
                self.up.send_signal(signal.SIGCONT)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.stop()
            rest = [*([psutil.Process(self.up.pid)] if self.up and self.up.poll() is None else [])]
            rest += [*self._detached(), *self.nginx(), *self.instances()]
            for process in rest:
                with contextlib.suppress(psutil.Error):
                    process.kill()
            psutil.wait_procs(rest, timeout=10)
            if self.up is not None:
                self.up.wait(10)
        finally:
            os.close(self._claim)

    def _detached(self) -> list[psutil.Process]:
        """Return a `lair up` in the background."""
        try:
            pid = int((self.data_dir / "lair.lock").read_text())
            process = psutil.Process(pid)
        except (OSError, ValueError, psutil.Error):
            return []
        ours = _environment_of(process, "LAIR_DATA_DIR") == str(self.data_dir)
        return [process] if ours and "sourcelair.cli" in _command_line_of(process) else []


@contextlib.contextmanager
def running_lair(directory: Path, env: Mapping[str, str] | None = None) -> Iterator[Lair]:
    """A Lair that is ready, and gone afterwards."""
    lair = Lair(directory, env)
    try:
        lair.start()
        yield lair
    finally:
        lair.close()


def _request(
    port: int, method: str, path: str, body: bytes | None, headers: Mapping[str, str], timeout: float
) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request(method, path, body, dict(headers))
        answer = connection.getresponse()
        return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
    finally:
        connection.close()


def _says(process: psutil.Process, word: str) -> bool:
    return word in _command_line_of(process)


def _command_line_of(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.Error:
        return []


def _environment_of(process: psutil.Process, name: str) -> str | None:
    try:
        return process.environ().get(name)
    except psutil.Error:
        return None
