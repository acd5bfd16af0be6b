"""NGINX's configuration, from the settings and nothing else."""

from __future__ import annotations

import hashlib
import ipaddress
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from sourcelair.ceryx.addresses import network_of, pattern_of
from sourcelair.ceryx.nginx.programs import Program
from sourcelair.errors import InvalidInput
from sourcelair.settings import Settings, split_address

HERE = Path(__file__).parent

SHARDS = 64
"""Upstreams over which hosts are spread: NGINX searches a pool of idle connections one by one."""

SHUTDOWN_TIMEOUT = 60
"""Seconds that workers of an ended master may go on with what they have open."""

CONNECT_TIMEOUT = 30
"""Seconds for a connect to an instance: two lost SYNs come back within them."""

MOST_CONNECTIONS = 32768

ROWS_PER_WORKER, SPARE_ROWS = 8, 16
"""Rows of counts: a worker has one, until it is known to be dead, and after a reload those of before have theirs."""

MOST_BARRIERS = 64
"""Dictionaries of which each worker has one for itself; more workers share them."""

BYTES_PER_INSTANCE, MOST_COUNTED = 256, 1 << 18
"""What the name of a counted instance takes in shared memory, at most; and how many are counted at the same time."""

_UNSAFE = set('"\\$;?{}\n\r')


@dataclass(frozen=True, slots=True)
class Place:
    """Where the files of one NGINX lie. Its workers run as `user` (None: as we do), and write below `bodies`."""

    config: Path
    pid_file: Path
    control: Path
    bodies: Path
    error_log: Path
    access_log: Path
    user: str | None


def checked_path(value: object) -> str:
    """Return a path that means nothing but itself in NGINX's configuration.

    Raises:
        InvalidInput: it has characters that mean something there.
    """
    text = str(value)
    if _UNSAFE & set(text):
        raise InvalidInput(f"{text!r} can't be used for NGINX: choose a path without quotes, $, ;, ?, \\ and braces.")
    return text


def quoted(value: object) -> str:
    """Return a path as one word of NGINX's configuration. Raises InvalidInput as `checked_path` does."""
    return f'"{checked_path(value)}"'


def _network(text: str) -> str:
    try:
        return str(ipaddress.ip_network(text, strict=False))
    except ValueError as error:
        raise InvalidInput(f"trusted_proxies: {text!r} is not a range of addresses, such as 10.0.0.0/8.") from error


def _listen(address: str) -> str:
    host, port = split_address(address)
    try:
        parsed = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
    except ValueError as error:
        raise InvalidInput(f"listen: {host!r} is not an IP address.") from error
    return f"[{parsed}]:{port}" if parsed.version == 6 else f"{parsed}:{port}"


def templates() -> jinja2.Environment:
    """Return the templates of which the configuration is made."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE / "templates"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,  # noqa: S701 - this is no HTML; paths are quoted, all else is numbers
    )
    environment.filters["quoted"] = quoted
    environment.filters["path"] = checked_path
    return environment


def render(
    settings: Settings,
    program: Program,
    place: Place,
    *,
    open_files: int,
    orphans: Sequence[tuple[int, int]] = (),
    stall: float = 0.0,
) -> str:
    """Return the configuration.

    Args:
        settings: of this node; only numbers, addresses and paths of it are used.
        program: the NGINX that will run it.
        place: its files.
        open_files: how many files a worker may have open.
        orphans: process id and start time of workers of an earlier master that may still be serving.
        stall: tests only: seconds that a worker may spend between looking a host up and counting the request.

    Raises:
        InvalidInput: a setting can't be used.
    """
    counts_bytes = max(8 << 20, settings.route_table_bytes // 4)
    values: dict[str, Any] = {
        "modules": program.modules,
        "lua": HERE / "lua",
        "workers": settings.nginx_workers,
        "user": place.user,
        "pid_file": place.pid_file,
        "control": place.control,
        "bodies": place.bodies,
        "error_log": place.error_log,
        "access_log": place.access_log if settings.access_log else None,
        "open_files": open_files,
        "connections": max(256, min(MOST_CONNECTIONS, open_files - 128)),
        "shutdown_timeout": SHUTDOWN_TIMEOUT,
        "route_table_bytes": settings.route_table_bytes,
        "details_bytes": max(4 << 20, settings.route_table_bytes // 4),
        "counts_bytes": counts_bytes,
        "barriers": min(MOST_BARRIERS, settings.nginx_workers),
        "count_rows": ROWS_PER_WORKER * settings.nginx_workers + SPARE_ROWS,
        "count_columns": min(MOST_COUNTED, counts_bytes // BYTES_PER_INSTANCE),
        "shards": SHARDS,
        "listen": _listen(settings.listen),
        "trusted_proxies": [_network(text) for text in settings.trusted_proxies],
        "trusted_patterns": [pattern_of(network_of(text)) for text in settings.trusted_proxies],
        "patience": float(settings.patience),
        "wake_timeout": float(settings.wake_timeout),
        "held_per_host": settings.held_per_host,
        "held_total": settings.held_total,
        "held_bytes_per_host": settings.held_bytes_per_host,
        "held_bytes_total": settings.held_bytes_total,
        "request_header_bytes": settings.request_header_bytes,
        "answer_header_bytes": settings.answer_header_bytes,
        "read_timeout": max(1, round(settings.read_timeout)),
        "stream_timeout": max(1, round(settings.stream_timeout)),
        "connect_timeout": CONNECT_TIMEOUT,
        "orphans": list(orphans),
        "stall": float(stall),
    }
    return templates().get_template("nginx.conf.j2").render(values)


def fingerprint(config: str, program: Program) -> str:
    """Return what changes when an NGINX that runs must be replaced: its configuration, its Lua or its version."""
    digest = hashlib.sha256(config.encode())
    digest.update(json.dumps([str(program.path), program.version]).encode())
    for file in sorted((HERE / "lua").rglob("*.lua")):
        digest.update(file.read_bytes())
    return digest.hexdigest()
