"""Traefik with a file of routers and services that it watches."""

from __future__ import annotations

import json
from pathlib import Path

from bench.install import program
from bench.peers.base import Routes, Running, process_family
from bench.stage import Stage, until_accepts


def write(path: Path, routes: Routes) -> None:
    """Put the file of all routes in place (JSON is YAML)."""
    services = {
        f"t{target}": {"loadBalancer": {"servers": [{"url": f"http://127.0.0.1:{target}"}]}}
        for target in dict.fromkeys(routes.values())
    }
    routers = {
        f"r{number}": {"rule": f"Host(`{host}`)", "service": f"t{target}", "entryPoints": ["public"]}
        for number, (host, target) in enumerate(routes.items())
    }
    new = path.with_suffix(".new")
    new.write_text(json.dumps({"http": {"routers": routers, "services": services}}))
    new.rename(path)


class Traefik:
    """The file provider, which applies changes while it runs."""

    name = "Traefik, file"
    program = "traefik"
    most_routes = 10_000

    def start(self, stage: Stage, routes: Routes) -> Running:
        """Start it with a file of all routes."""
        folder, port = stage.folder("traefik"), stage.free_port()
        (folder / "dynamic").mkdir()
        write(folder / "dynamic" / "routes.yml", routes)
        command = [
            program("traefik"),
            f"--entrypoints.public.address=127.0.0.1:{port}",
            f"--providers.file.directory={folder / 'dynamic'}",
            "--providers.file.watch=true",
            "--global.checknewversion=false",
            "--global.sendanonymoususage=false",
            "--log.level=ERROR",
        ]
        process = stage.spawn(command, env={"GOMAXPROCS": "1"}, cwd=folder)
        until_accepts(port, process)
        return Running(port, process_family(process.pid))
