"""HAProxy with a map from hosts to targets: the fastest proxy by host that one can set up today."""

from __future__ import annotations

from bench.install import program
from bench.peers.base import Routes, Running, process_family
from bench.stage import Stage, until_accepts


class HaproxyMap:
    """A map file, and `set-dst`: the target is no server of the configuration."""

    name = "HAProxy, map"
    program = "haproxy"
    most_routes = 1_000_000

    def start(self, stage: Stage, routes: Routes) -> Running:
        """Start it with a map of all routes."""
        folder, port = stage.folder("haproxy"), stage.free_port()
        table = folder / "routes.map"
        with table.open("w") as lines:
            lines.writelines(f"{host} {target}\n" for host, target in routes.items())
        (folder / "haproxy.cfg").write_text(f"""
global
    nbthread 1
    maxconn 4000
defaults
    mode http
    timeout connect 5s
    timeout client 75s
    timeout server 75s
    http-reuse always
frontend public
    bind 127.0.0.1:{port} backlog 4096
    http-request set-var(txn.port) req.hdr(host),field(1,:),lower,map_str({table})
    http-request deny deny_status 404 unless {{ var(txn.port) -m found }}
    option forwardfor
    default_backend targets
backend targets
    http-request set-dst ipv4(127.0.0.1)
    http-request set-dst-port var(txn.port)
    server target 0.0.0.0:0 pool-max-conn 4000 pool-purge-delay 75s
""")
        process = stage.spawn([program("haproxy"), "-f", str(folder / "haproxy.cfg"), "-db"], cwd=folder)
        until_accepts(port, process)
        return Running(port, process_family(process.pid))
