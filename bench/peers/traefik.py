"""Traefik with a file of routers and services that it watches."""

from __future__ import annotations

import json
from pathlib import Path

from bench.install import program
from bench.peers.base import Routes, Running, process_family, replace
from bench.stage import Stage, until_accepts


def content(routes: Routes) -> bytes:
    """Return the file of all routes (JSON is YAML)."""
    services = {
        f"t{target}": {"loadBalancer": {"servers": [{"url": f"http://127.0.0.1:{target}"}]}}
        for target in dict.fromkeys(routes.values())
    }
    routers = {
        f"r{number}": {"rule": f"Host(`{host}`)", "service": f"t{target}", "entryPoints": ["public"]}
        for number, (host, target) in enumerate(routes.items())
    }
    return json.dumps({"http": {"routers": routers, "services": services}}).encode()


class Traefik:
    """The file provider, which applies changes while it runs.

    Args:
        throttle: how long it takes no new change after one, such as `100ms`; by default 2 seconds.
    """

    program = "traefik"
    most_routes = 10_000

    def __init__(self, throttle: str = "") -> None:
        self.name = "Traefik, file" + (f", {throttle} between changes" if throttle else "")
        self.file = Path()
        self._throttle = [f"--providers.providersthrottleduration={throttle}"] if throttle else []

    def content(self, routes: Routes) -> bytes:
        """Return the file of these routes."""
        return content(routes)

    def start(self, stage: Stage, routes: Routes) -> Running:
        """Start it with a file of all routes."""
        folder, port = stage.folder("traefik"), stage.free_port()
        (folder / "dynamic").mkdir()
        self.file = folder / "dynamic" / "routes.yml"
        replace(self.file, content(routes))
        command = [
            program("traefik"),
            f"--entrypoints.public.address=127.0.0.1:{port}",
            f"--providers.file.directory={folder / 'dynamic'}",
            "--providers.file.watch=true",
            "--global.checknewversion=false",
            "--global.sendanonymoususage=false",
            "--log.level=ERROR",
            *self._throttle,
        ]
        process = stage.spawn(command, env={"GOMAXPROCS": "1"}, cwd=folder)
        until_accepts(port, process)
        return Running(port, process_family(process.pid))
