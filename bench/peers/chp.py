"""JupyterHub's configurable-http-proxy, with routes by host, which come over its API."""

from __future__ import annotations

import json

from bench.asking import Call, Caller
from bench.install import program
from bench.peers.base import Routes, Running, process_family
from bench.stage import Stage, until_accepts

TOKEN = "bench"


class ConfigurableHttpProxy:
    """One API call for each route."""

    name = "configurable-http-proxy"
    program = "configurable-http-proxy"
    most_routes = 10_000
    api_connections = 32

    def __init__(self) -> None:
        self.api_port = 0

    def start(self, stage: Stage, routes: Routes) -> Running:
        """Start it, and give it all routes."""
        folder, port = stage.folder("chp"), stage.free_port()
        self.api_port = stage.free_port()
        command = [
            program("configurable-http-proxy"),
            "--host-routing",
            f"--ip=127.0.0.1 --port={port} --api-ip=127.0.0.1 --api-port={self.api_port}".replace(" ", "\n"),
            "--log-level=error",
        ]
        command = [word for part in command for word in part.split("\n")]
        process = stage.spawn(command, env={"CONFIGPROXY_AUTH_TOKEN": TOKEN}, cwd=folder)
        until_accepts(port, process)
        until_accepts(self.api_port, process)
        api = Caller(self.api_port)
        for host, target in routes.items():
            api.send(self.change(host, target))
            api.finish()
        api.close()
        return Running(port, process_family(process.pid))

    def change(self, host: str, target: int) -> Call:
        """Return what sets one route."""
        headers = {"Authorization": f"token {TOKEN}", "Content-Type": "application/json"}
        body = json.dumps({"target": f"http://127.0.0.1:{target}"}).encode()
        return Call("POST", f"/api/routes/{host}", body, headers)

    def changes(self, routes: Routes) -> None:
        """There are no batches."""
