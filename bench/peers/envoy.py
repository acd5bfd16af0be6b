"""Envoy with a virtual host for each route, from files, as its control planes write them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bench.install import program
from bench.peers.base import Routes, Running, process_family, replace
from bench.stage import Stage, until_accepts

HTTP = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
ROUTER = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
ROUTES = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
CLUSTER = "type.googleapis.com/envoy.config.cluster.v3.Cluster"


def virtual_hosts(routes: Routes) -> dict[str, Any]:
    """Return the route configuration: one virtual host for each route."""
    return {
        "@type": ROUTES,
        "name": "public",
        "virtual_hosts": [
            {
                "name": host,
                "domains": [host, f"{host}:*"],
                "routes": [
                    {
                        "match": {"prefix": "/"},
                        "route": {
                            "cluster": f"t{target}",
                            "timeout": "0s",
                            "upgrade_configs": [{"upgrade_type": "websocket"}],
                        },
                    }
                ],
            }
            for host, target in routes.items()
        ],
    }


def clusters(routes: Routes) -> list[dict[str, Any]]:
    """Return one cluster for each target."""
    return [
        {
            "@type": CLUSTER,
            "name": f"t{target}",
            "type": "STATIC",
            "connect_timeout": "5s",
            "load_assignment": {
                "cluster_name": f"t{target}",
                "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _address(target)}}]}],
            },
        }
        for target in dict.fromkeys(routes.values())
    ]


def resources(version: int, those: list[dict[str, Any]]) -> bytes:
    """Return a file of resources; Envoy looks at files that are moved to where they belong."""
    return json.dumps({"version_info": str(version), "resources": those}).encode()


class Envoy:
    """Routes and clusters come by the file variant of xDS."""

    name = "Envoy"
    program = "envoy"
    most_routes = 10_000

    def __init__(self) -> None:
        self.file = Path()
        self._version = 1

    def content(self, routes: Routes) -> bytes:
        """Return the file of these routes; their targets must have been there at the start."""
        self._version += 1
        return resources(self._version, [virtual_hosts(routes)])

    def start(self, stage: Stage, routes: Routes) -> Running:
        """Start it with the files of all routes."""
        folder, port = stage.folder("envoy"), stage.free_port()
        self.file = folder / "routes.json"
        replace(self.file, self.content(routes))
        replace(folder / "clusters.json", resources(1, clusters(routes)))
        source = {"resource_api_version": "V3", "path_config_source": {"path": str(self.file)}}
        manager = {
            "@type": HTTP,
            "stat_prefix": "public",
            "generate_request_id": False,
            "rds": {"route_config_name": "public", "config_source": source},
            "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {"@type": ROUTER}}],
        }
        filters = [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]
        configuration = {
            "node": {"id": "bench", "cluster": "bench"},
            "dynamic_resources": {
                "cds_config": {
                    "resource_api_version": "V3",
                    "path_config_source": {"path": str(folder / "clusters.json")},
                }
            },
            "static_resources": {
                "listeners": [
                    {"name": "public", "address": _address(port), "filter_chains": [{"filters": filters}]},
                ]
            },
        }
        (folder / "envoy.json").write_text(json.dumps(configuration))
        command = [program("envoy"), "-c", str(folder / "envoy.json"), "--concurrency", "1", "-l", "error"]
        process = stage.spawn([*command, "--disable-hot-restart"], cwd=folder)
        until_accepts(port, process)
        return Running(port, process_family(process.pid))


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}
