"""Envoy with a virtual host for each route, from files, as its control planes write them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bench.install import program
from bench.peers.base import Routes, Running, process_family
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


def write(path: Path, version: str, resources: list[dict[str, Any]]) -> None:
    """Put a file of resources in place; Envoy looks at files that are moved to where they belong."""
    new = path.with_suffix(".new")
    new.write_text(json.dumps({"version_info": version, "resources": resources}))
    new.rename(path)


class Envoy:
    """Routes and clusters come by the file variant of xDS."""

    name = "Envoy"
    program = "envoy"
    most_routes = 10_000

    def start(self, stage: Stage, routes: Routes) -> Running:
        """Start it with the files of all routes."""
        folder, port = stage.folder("envoy"), stage.free_port()
        write(folder / "routes.json", "1", [virtual_hosts(routes)])
        write(folder / "clusters.json", "1", clusters(routes))
        source = {"resource_api_version": "V3", "path_config_source": {"path": str(folder / "routes.json")}}
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
