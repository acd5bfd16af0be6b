"""The pages that visitors see instead of the app. Host names, reasons and log lines are hostile: all are escaped."""

from __future__ import annotations

import time
from pathlib import Path

import jinja2

from sourcelair.client.servers import Server

REFRESH = 2
"""Seconds after which a browser without JavaScript asks again."""

_templates = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def state_of(server: Server | None) -> str:
    """Return what visitors are told: `unknown-host`, `disabled`, `failed` or `starting`."""
    if server is None:
        return "unknown-host"
    if not server.enabled:
        return "disabled"
    held_back = server.retry_at is not None and server.retry_at > time.time()
    if server.state == "failed" or (server.state == "asleep" and held_back):
        return "failed"
    return "starting"


def stage_of(server: Server) -> str:
    """Return how far the wake is, in a few words for a person."""
    if server.state == "awake":
        return "Ready"
    if server.state in {"draining", "stopping"}:
        return "Finishing the last run"
    if server.state == "starting":
        return "Starting"
    return "Waiting for its turn"


def render(server: Server | None, host: str, state: str | None = None, path: str = "/") -> tuple[str, str, int]:
    """Return the page for a host.

    Args:
        server: that answers there, None where there is none.
        host: as the visitor gave it.
        state: what is told; by default what `state_of` the server is.
        path: that the visitor asked for, with its query.

    Returns:
        the HTML, the state that it tells, and the seconds after which to ask again.
    """
    state = state or state_of(server)
    retry = REFRESH
    if state == "failed" and server is not None:
        retry = max(REFRESH, round((server.retry_at or 0) - time.time()) + 1)
    if state in {"disabled", "unknown-host"}:
        retry = 30
    html = _templates.get_template("page.html").render(
        state=state,
        host=host,
        path=path,
        retry=retry,
        stage=stage_of(server) if server else "Looking for it",
        reason=server.failure if server else None,
        log=server.failure_log if server else [],
    )
    return html, state, retry
