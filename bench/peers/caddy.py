"""Caddy with a JSON configuration of one route for each host, as its admin API takes it."""

from __future__ import annotations

import json
from typing import Any

from bench.asking import Call
from bench.install import program
from bench.peers.base import Routes, Running, process_family
from bench.stage import Stage, until_accepts

_JSON = {"Content-Type": "application/json"}


def route(host: str, target: int) -> dict[str, Any]:
    """Return one route, with an id by which the admin API finds it."""
    handle = {"handler": "reverse_proxy", "upstreams": [{"dial": f"127.0.0.1:{target}"}]}
    return {"@id": host, "match": [{"host": [host]}], "handle": [handle], "terminal": True}


class Caddy:
    """Configured over its own admin API's format."""

    name = "Caddy"
    program = "caddy"
    most_routes = 10_000
    api_connections = 1  # with more, each change breaks off those of the others: it starts its API anew

    def __init__(self) -> None:
        self.api_port = 0

    def change(self, host: str, target: int) -> Call:
        """Return what sets one route; Caddy loads all of its configuration anew then."""
        return Call("PATCH", f"/id/{host}", json.dumps(route(host, target)).encode(), _JSON)

    def changes(self, routes: Routes) -> Call:
        """Return what sets all routes."""
        body = json.dumps([route(host, target) for host, target in routes.items()]).encode()
        return Call("PATCH", "/config/apps/http/servers/public/routes", body, _JSON, len(routes))

    def start(self, stage: Stage, routes: Routes) -> Running:
        """Start it with a configuration of all routes."""
        folder, port = stage.folder("caddy"), stage.free_port()
        self.api_port = stage.free_port()
        configuration = {
            "admin": {"listen": f"127.0.0.1:{self.api_port}", "config": {"persist": False}},
            "logging": {"logs": {"default": {"level": "ERROR"}}},
            "apps": {
                "http": {
                    "servers": {
                        "public": {
                            "listen": [f"127.0.0.1:{port}"],
                            "automatic_https": {"disable": True},
                            "routes": [route(host, target) for host, target in routes.items()],
                        }
                    }
                }
            },
        }
        (folder / "caddy.json").write_text(json.dumps(configuration))
        home = {"GOMAXPROCS": "1", "HOME": str(folder), "XDG_CONFIG_HOME": str(folder), "XDG_DATA_HOME": str(folder)}
        process = stage.spawn([program("caddy"), "run", "--config", str(folder / "caddy.json")], env=home, cwd=folder)
        until_accepts(port, process)
        return Running(port, process_family(process.pid))
