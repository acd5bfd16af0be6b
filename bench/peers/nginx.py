"""NGINX without us: one static upstream with keep-alive, which is the limit of what we can reach, and the upstream."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.install import program
from bench.peers.base import Routes, Running, process_family
from bench.stage import LOAD_CPUS, PROXY_CPU, Stage, until_accepts

_HEAD = """
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log crit;
worker_processes {workers};
worker_rlimit_nofile 20000;
events {{ worker_connections 9000; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    default_type text/plain;
    keepalive_requests 1000000000;
    client_body_buffer_size 64k;
    tcp_nodelay on;
"""

_LOG = """
    log_format bench escape=json '{"time":"$time_iso8601","host":"$host","method":"$request_method","path":"$uri",'
        '"protocol":"$server_protocol","status":"$status","bytes":"$bytes_sent","request_bytes":"$request_length",'
        '"seconds":"$request_time","connect":"$upstream_connect_time","header":"$upstream_header_time",'
        '"target":"$upstream_addr","target_status":"$upstream_status","client":"$remote_addr",'
        '"agent":"$http_user_agent","state":"$sent_http_lair_state"}';
"""

LARGE = 100_000
"""Bytes of the answer at /large."""


def serve(stage: Stage, folder: Path, text: str, ports: Sequence[int], cpus: Sequence[int]) -> Running:
    """Run an NGINX with this configuration until the stage ends."""
    configuration = folder / "nginx.conf"
    configuration.write_text(text)
    process = stage.spawn([program("nginx"), "-c", str(configuration), "-p", str(folder)], cpus=cpus, cwd=folder)
    for port in ports[:1]:
        until_accepts(port, process)
    return Running(ports[0], process_family(process.pid))


def upstream(stage: Stage, number: int) -> list[int]:
    """Start what all proxies lead to, on so many ports, and return these.

    A small answer is at /, one that says on which port it was asked at /port, and 100 kB are at /large.
    """
    folder = stage.folder("upstream")
    (folder / "large").write_bytes(b"x" * LARGE)
    ports = [stage.free_port() for _ in range(number)]
    listens = "\n".join(f"        listen 127.0.0.1:{port} backlog=1024;" for port in ports)
    text = (
        _HEAD.format(folder=folder, workers=len(LOAD_CPUS))
        + f"""
    keepalive_timeout 75s;
    server {{
{listens}
        location / {{ return 200 "hello\\n"; }}
        location = /port {{ return 200 "port $server_port\\n"; }}
        location = /large {{ root {folder}; }}
    }}
}}
"""
    )
    serve(stage, folder, text, ports, LOAD_CPUS)
    return ports


class Static:
    """NGINX with one upstream for every host, and a pool of connections.

    Args:
        dressed: with the headers and the access log that we give a request, too.
    """

    program = ""
    most_routes = 1_000_000

    def __init__(self, *, dressed: bool) -> None:
        self.dressed = dressed
        self.name = "NGINX, one static upstream" + (", our headers and log" if dressed else "")

    def start(self, stage: Stage, routes: Routes) -> Running:
        """Start it; of the routes only the first target counts."""
        folder, port = stage.folder("nginx"), stage.free_port()
        target = next(iter(routes.values()))
        head = _HEAD.format(folder=folder, workers=1)
        log, headers = "", ""
        if self.dressed:
            log = _LOG + f"    access_log {folder}/access.log bench buffer=64k flush=1s;\n"
            headers = """
            proxy_set_header Host $http_host;
            proxy_set_header Upgrade "";
            proxy_set_header Proxy "";
            proxy_set_header X-Forwarded-For $remote_addr;
            proxy_set_header X-Forwarded-Proto $scheme;
            proxy_set_header X-Forwarded-Host $http_host;
            proxy_set_header X-Forwarded-Port $server_port;
            proxy_set_header X-Forwarded-Prefix "";
            proxy_set_header X-Real-IP $remote_addr;
            proxy_set_header Forwarded "for=$remote_addr;proto=$scheme";
"""
        text = (
            head
            + log
            + f"""
    upstream target {{
        server 127.0.0.1:{target};
        keepalive 64;
        keepalive_requests 1000000000;
    }}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{
            proxy_http_version 1.1;
            proxy_set_header Connection "";{headers}
            proxy_pass http://target;
        }}
    }}
}}
"""
        )
        return serve(stage, folder, text, [port], (PROXY_CPU,))
