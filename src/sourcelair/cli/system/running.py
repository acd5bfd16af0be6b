"""What of an installation runs, found without changing anything: for who only looks, as `lair doctor` does."""

from __future__ import annotations

import json
from pathlib import Path

import psutil

from sourcelair.ceryx.nginx.processes import ProcessId, boot_id


def nginx(data_dir: Path) -> int | None:
    """Return the process id of the NGINX of a data directory; None where none runs.

    `NginxEngine` knows that too, and writes into the directory as soon as it is made.
    """
    try:
        state = json.loads((data_dir / "nginx" / "engine.json").read_text())
        process = ProcessId(int(state["pid"]), int(state["start"]))
        return process.pid if state["boot_id"] == boot_id() and process.alive else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def control_plane(data_dir: Path) -> int | None:
    """Return the process id that the last `lair up` of a data directory left; it may be another's by now."""
    try:
        return int((data_dir / "lair.lock").read_text())
    except (OSError, ValueError):
        return None


def listens(pid: int, port: int) -> bool:
    """Return whether a process listens on a TCP port; True as well where we may not look."""
    try:
        found = psutil.Process(pid).net_connections("tcp")
    except psutil.AccessDenied:
        return True
    except psutil.Error:
        return False
    return any(one.status == psutil.CONN_LISTEN and one.laddr and one.laddr.port == port for one in found)
