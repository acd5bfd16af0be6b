"""NGINX without us: one static upstream with keep-alive, which is the limit of what we can reach, and the upstream."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from bench.install import program
from bench.peers.base import Routes, Running, process_family
from bench.stage import LOAD_CPUS, PROXY_CPU, Stage, until_accepts

from sourcelair.ceryx.nginx.render import templates

_HEAD = """
daemon off;
pcre_jit on;
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


Dress = Literal["bare", "simple", "ours"]
"""Which headers and which access log a static NGINX has: none; the same for a usual request; our very directives."""

_NAMES: dict[Dress, str] = {
    "bare": "NGINX, one static upstream",
    "simple": "NGINX, one static upstream, simple headers and log",
    "ours": "NGINX, one static upstream, our headers and log",
}

_SIMPLE_HEADERS = """
        proxy_set_header Host $http_host;
        proxy_set_header Connection "";
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


def _dressed(dress: Dress, log: Path) -> tuple[str, str]:
    """Return what is for all of HTTP, and what is for the server."""
    if dress == "bare":
        return "", 'proxy_set_header Connection "";'
    if dress == "simple":
        return f"{_LOG}    access_log {log} bench buffer=64k flush=1s;\n", _SIMPLE_HEADERS
    made = templates()
    outer = [made.get_template(f"{name}.conf.j2").render(trusted_proxies=[], shards=1) for name in ("maps", "log")]
    access = made.get_template("access.conf.j2").render(access_log=log)
    headers = made.get_template("headers.conf.j2").render(trusted_proxies=[], connection='""', upgrade='""', prefix="")
    return "\n".join(["    variables_hash_max_size 2048;", *outer]), access + headers


class Static:
    """NGINX with one upstream for every host, and a pool of connections.

    Args:
        dress: with which headers and which access log.
    """

    program = ""
    most_routes = 1_000_000

    def __init__(self, dress: Dress) -> None:
        self.dress = dress
        self.name = _NAMES[dress]

    def start(self, stage: Stage, routes: Routes) -> Running:
        """Start it; of the routes only the first target counts."""
        folder, port = stage.folder("nginx"), stage.free_port()
        target = next(iter(routes.values()))
        outer, inner = _dressed(self.dress, folder / "access.log")
        text = f"""{_HEAD.format(folder=folder, workers=1)}
{outer}
    upstream target {{
        server 127.0.0.1:{target};
        keepalive 64;
        keepalive_requests 1000000000;
    }}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
{inner}
        location / {{
            proxy_http_version 1.1;
            proxy_pass http://target;
        }}
    }}
}}
"""
        return serve(stage, folder, text, [port], (PROXY_CPU,))
