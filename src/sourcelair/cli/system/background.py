"""`lair up --detach`: start the same program again without a terminal, and wait until it is up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from typing import Any

from sourcelair.cli import exits
from sourcelair.cli.session import RUNNING, reachable
from sourcelair.cli.system.directory import DataDirectory
from sourcelair.errors import Unavailable
from sourcelair.settings import Settings

LOOK_AGAIN = 0.03
"""Seconds between looks at whether it is up."""

START_TIMEOUT = 3600.0
"""Seconds in which it must be up, longer than it allows itself: it gives up by itself, and says why."""


def start_in_background(settings: Settings, directory: DataDirectory, *, take_over: bool = False) -> dict[str, Any]:
    """Start `lair up` in a session of its own, and return what it says of itself once it is up.

    Args:
        settings: of the command.
        directory: prepared, not locked.
        take_over: servers are at home in this data directory from now on.

    Raises:
        LairError: it did not come up. The message is its own last line, and the kind is that of its exit code: a
            Conflict where one runs already or a port is in use.
    """
    directory.lock()  # a clear error now is better than one in a log
    directory.unlock()
    directory.renounce()
    with directory.log.open("ab") as log:
        start_of_log = log.tell()
        process = subprocess.Popen(
            [
                sys.executable,
                "-I" if sys.flags.isolated else "-P",  # never import from the working directory
                "-m",
                "sourcelair.cli",
                "up",
                *("--data-dir", str(settings.data_dir), "--listen", settings.listen),
                *("--api-listen", settings.api_listen, "--domain", settings.domain),
                *(("--store", settings.store) if settings.store else ()),
                "--demo" if settings.demo else "--no-demo",
                *(("--take-over",) if take_over else ()),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise exits.kind_of(process.returncode)(_last_words(directory, start_of_log))
        facts = _facts_of(directory, process.pid)
        if facts and _is_ready(settings):
            return facts
        time.sleep(LOOK_AGAIN)
    raise Unavailable(f"Not up after {START_TIMEOUT:.0f} s; it goes on trying. Its log is {directory.log}.")


def _facts_of(directory: DataDirectory, pid: int) -> dict[str, Any] | None:
    try:
        facts = json.loads((directory.path / RUNNING).read_text())
    except (OSError, ValueError):
        return None
    return facts if isinstance(facts, dict) and facts.get("process") == pid else None


def _is_ready(settings: Settings) -> bool:
    try:
        with urllib.request.urlopen(f"http://{reachable(settings.api_listen)}/readyz", timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _last_words(directory: DataDirectory, start: int) -> str:
    """Return the error line that the process ended with."""
    with directory.log.open("rb") as log:
        log.seek(start)
        lines = log.read().decode(errors="replace").splitlines()
    said = [text.removeprefix("lair: ") for text in lines if text.startswith("lair: ")]
    return said[-1] if said else f"It ended at once. Its log is {directory.log}."
