"""Printing: tables and plain lines for people, JSON for programs, errors as one line on standard error."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

STATE_STYLES = {
    "awake": "green",
    "starting": "yellow",
    "draining": "yellow",
    "stopping": "yellow",
    "dozing": "cyan",
    "asleep": "blue",
    "failed": "red",
    "disabled": "dim",
}


@cache
def console() -> Console:
    """Return the console on standard output."""
    from rich.console import Console

    return Console(highlight=False, soft_wrap=True)


@cache
def program() -> str:
    """Return how this program is called from here: `lair`, or the checkout's `bin/lair` where that is not on PATH."""
    script = Path(__file__).parents[3] / "bin" / "lair"
    if shutil.which("lair") or not script.is_file():
        return "lair"
    here = Path.cwd()
    return str(script.relative_to(here) if script.is_relative_to(here) else script)


def line(text: str = "") -> None:
    """Print one line as it is: no markup, never wrapped."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def as_json(value: Any) -> None:
    """Print a value as JSON."""
    line(json.dumps(value, indent=2, ensure_ascii=False))


def error(message: str, problem: dict[str, Any] | None) -> None:
    """Print an error on standard error: one line, or the problem object where JSON was asked for."""
    text = json.dumps(problem, ensure_ascii=False) if problem else "lair: " + " ".join(message.split())
    sys.stderr.write(text + "\n")


def log_lines(lines: Any) -> None:
    """Print the last lines of a server's log on standard error, below an error."""
    if isinstance(lines, list) and lines:
        sys.stderr.write("Its last log lines:\n" + "".join(f"  | {text}\n" for text in lines))


def warn(message: str, *, in_json: bool) -> None:
    """Print a remark on standard error, as one line; where JSON was asked for it is an object with `warning`."""
    text = " ".join(message.split())
    sys.stderr.write((json.dumps({"warning": text}, ensure_ascii=False) if in_json else f"lair: {text}") + "\n")


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table; the style of a state is its own."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in columns:
        shown.add_column(column, no_wrap=True)
    for row in rows:
        shown.add_row(*(Text(cell, style=STATE_STYLES.get(cell, "")) for cell in row))
    console().print(shown, soft_wrap=True)


def ago(moment: float | None) -> str:
    """Say how long ago a moment (Unix seconds) was."""
    if moment is None:
        return ""
    return f"{duration(max(0.0, time.time() - moment))} ago"


def clock(moment: float) -> str:
    """Say a moment (Unix seconds) as this machine's clock shows it; with the day where it is not today."""
    then = time.localtime(moment)
    today = then[:3] == time.localtime()[:3]
    return time.strftime("%H:%M:%S" if today else "%Y-%m-%d %H:%M:%S", then)


def until(moment: float) -> str:
    """Say when a moment to come (Unix seconds) is."""
    left = moment - time.time()
    return f"in {duration(left)}" if left > 0 else "now"


def duration(seconds: float) -> str:
    """Say a duration in its largest unit."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{int(seconds // size)} {unit}"
    return f"{int(seconds)} s"
