"""JupyterHub with configurable-http-proxy, which starts a user's server as a process of this machine.

Its own `SimpleLocalProcessSpawner` starts the same `python -m http.server` that we start. What is measured is the API's
way, the shortest that there is: from the request to start the server until the user's URL answers through the proxy. A
browser has a login, a redirect and a waiting page in front of it.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
from bench.install import program
from bench.stage import LOAD_CPUS, PROXY_CPU, Stage, end, until_accepts
from bench.wakes.rounds import Rounds
from bench.wakes.servers import Kind, Question, ask, http_server, own_start

TOKEN, USER = "bench-api-token", "bench"

LOOK = 0.002
"""Seconds between two tries to reach the user's URL after the hub has said that the server is there."""

LONGEST = 60.0
"""Seconds that a start or a stop may take."""

_CONFIGURATION = """
from jupyterhub.spawner import SimpleLocalProcessSpawner

class Server(SimpleLocalProcessSpawner):
    def get_args(self):
        return [part.replace("{{port}}", str(self.port)) for part in {arguments!r}]

c = get_config()
c.JupyterHub.spawner_class = Server
c.Spawner.cmd = {command!r}
c.SimpleLocalProcessSpawner.home_dir_template = {home!r}
c.JupyterHub.bind_url = "http://127.0.0.1:{port}"
c.JupyterHub.hub_port = {hub_port}
c.JupyterHub.db_url = "sqlite:///hub.sqlite"
c.JupyterHub.authenticator_class = "dummy"
c.Authenticator.allow_all = True
c.ConfigurableHTTPProxy.api_url = "http://127.0.0.1:{proxy_port}"
c.ConfigurableHTTPProxy.command = [{proxy!r}]
c.JupyterHub.services = [{{"name": "bench", "api_token": {token!r}}}]
c.JupyterHub.load_roles = [{{"name": "bench", "services": ["bench"], "scopes": ["admin:users", "admin:servers"]}}]
"""


class JupyterHub:
    """A running one."""

    def __init__(self, port: int) -> None:
        self.port = port

    def call(self, method: str, path: str) -> Any:
        """Call its API, and return the JSON of the answer. Raises RuntimeError if it refuses."""
        api = http.client.HTTPConnection("127.0.0.1", self.port, timeout=LONGEST)
        with contextlib.closing(api):
            api.request(method, f"/hub/api{path}", headers={"Authorization": f"token {TOKEN}"})
            answer = api.getresponse()
            text = answer.read()
        if answer.status >= 300:
            raise RuntimeError(f"{method} {path} was answered with {answer.status}: {text[:300]!r}")
        return json.loads(text) if text else None

    def wake(self, question: Question) -> float:
        """Return the milliseconds from asking for the server to the answer of the user's URL."""
        began = time.perf_counter()
        self.call("POST", f"/users/{USER}/server")
        while True:
            with contextlib.suppress(OSError, RuntimeError):  # until it is ready, the hub itself answers
                ask(self.port, question, f"127.0.0.1:{self.port}")
                return (time.perf_counter() - began) * 1000
            if time.perf_counter() - began > LONGEST:
                raise RuntimeError("the user's server does not answer")
            time.sleep(LOOK)

    def stop(self) -> None:
        """Stop the user's server, and wait until it is gone."""
        self.call("DELETE", f"/users/{USER}/server")
        deadline = time.monotonic() + LONGEST
        while (user := self.call("GET", f"/users/{USER}"))["server"] or user["pending"]:
            if time.monotonic() > deadline:
                raise RuntimeError("the user's server does not stop")
            time.sleep(0.02)


def jupyterhub(stage: Stage, folder: Path, command: Sequence[str]) -> JupyterHub:
    """Start it; its users' servers run this command in this folder.

    It is on all processors, as we are when wakes are measured.
    """
    place, port, proxy_port = stage.folder("jupyterhub"), stage.free_port(), stage.free_port()
    configuration = _CONFIGURATION.format(
        command=[command[0]],
        arguments=list(command[1:]),
        home=str(folder),
        port=port,
        hub_port=stage.free_port(),
        proxy_port=proxy_port,
        proxy=program("configurable-http-proxy"),
        token=TOKEN,
    )
    (place / "jupyterhub_config.py").write_text(configuration)
    stage.enter(_running(stage, place, {"CONFIGPROXY_AUTH_TOKEN": "bench"}))
    until_accepts(port)
    hub = JupyterHub(port)
    deadline = time.monotonic() + LONGEST
    while True:
        with contextlib.suppress(OSError, RuntimeError, http.client.HTTPException):
            hub.call("POST", f"/users/{USER}")
            return hub
        if time.monotonic() > deadline:
            raise RuntimeError(f"JupyterHub is not ready: {(place / 'output.log').read_text()[-2000:]}")
        time.sleep(0.1)


@contextlib.contextmanager
def _running(stage: Stage, place: Path, env: Mapping[str, str]) -> Iterator[None]:
    """Start the hub. Its proxy and its users' servers have sessions of their own, and are ended by their ids."""
    command = [program("jupyterhub"), "--config", str(place / "jupyterhub_config.py")]
    process = stage.spawn(command, env=env, cwd=place, cpus=(PROXY_CPU, *LOAD_CPUS))
    try:
        yield
    finally:
        rest: list[psutil.Process] = []
        with contextlib.suppress(psutil.Error):
            rest = psutil.Process(process.pid).children(recursive=True)
        end(process)
        for each in rest:
            with contextlib.suppress(psutil.Error):
                each.kill()


def measured(stage: Stage, ports: Sequence[int], rounds: int) -> Rounds:
    """Measure the server's own start and JupyterHub's wake in turn, as `rounds.wakes` does with ours."""
    folder = stage.folder("home")
    question = Question(path=f"/user/{USER}/")
    page = folder / question.path.strip("/") / "index.html"
    page.parent.mkdir(parents=True)
    page.write_text("hello")
    kind = Kind("python -m http.server, GET", http_server(), question)
    hub = jupyterhub(stage, folder, kind.command)
    seen = Rounds()
    for number in range(rounds + 1):
        own = own_start(kind, folder, ports[number % len(ports)])
        wake = hub.wake(question)
        hub.stop()
        if number:  # the first one fills caches
            seen.own.append(own)
            seen.wake.append(wake)
    return seen
