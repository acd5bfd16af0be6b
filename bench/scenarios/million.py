"""What a million routes in etcd cost: the API's start, and all that a node does with every one of them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from bench.cold import Cold, cold_start
from bench.million import Step
from bench.report import Report, Table
from bench.stage import stage
from tests.etcd import running_etcd
from tests.ports import claimed_stretch

MOST_STALL = 100.0
"""Milliseconds of processor time for which no step may keep the event loop."""

MOST_MEMORY = 2_000.0
"""Megabytes of a node with a million routes."""

GENEROUS = 1_000.0
"""Milliseconds that the regression check allows, on a machine that does other things as well."""

MOST_START, GENEROUS_START = 3.0 / 100_000, 20.0 / 100_000
"""Seconds for each route until all are served again, from the file."""

COLD = ("seconds until a route in the middle is served", "the last", "CPU s", "file, MB", "agent, MB", "NGINX, MB")
HEAD = ("step", "seconds", "longest stall, ms", "most at a stretch, ms", "peak memory, MB", "")

QUOTA = 8_000_000_000
"""Bytes that etcd may keep."""


class Million:
    """Ours alone: no peer keeps its routes in etcd and starts from there."""

    programs: Sequence[str] = ()

    def measure(self, *, short: bool, check: bool) -> Report:
        """Measure it, see `Scenario`."""
        number = 20_000 if short else 50_000 if check else 1_000_000
        steps = list[Step]()
        with stage() as place:
            directory = place.directory / "etcd"
            directory.mkdir()
            with running_etcd(directory, 1, f"--quota-backend-bytes={QUOTA}") as etcd, claimed_stretch(1) as ports:
                port, url = ports[0], etcd.url("/bench")
                steps += run("fill", url, number, port)
                size = sum(file.stat().st_size for file in directory.rglob("db"))
                steps += run("load", url, number, port)
                serving = start("serve", url, number, port)
                until_listening(port, serving)
                steps += run("node", url, number, port)
                serving.send_signal(signal.SIGTERM)
                steps += found(serving)
            cold = cold_start(place, number)
        table = Table(f"{number:,} routes", HEAD)
        for step in steps:
            table.rows.append(
                [
                    step.name,
                    f"{step.seconds:.1f}",
                    f"{step.stall:.0f}",
                    f"{step.busy:.0f}",
                    f"{step.memory:.0f}",
                    step.note,
                ]
            )
        table.notes.append(
            "At a stretch: processor time of the event loop's thread, which no other program's load adds to."
        )
        table.notes.append(f"etcd's file has {size / 1e6:.0f} MB. Each block of steps is a process of its own.")
        report = Report("million", "Very many routes in etcd", "bin/bench million", [table, table_of(cold, number)])
        stall, most = max(step.busy for step in steps), GENEROUS if check else MOST_STALL
        memory = max(*(step.memory for step in steps), cold.agent / 1e6)
        seconds = number * (GENEROUS_START if check else MOST_START)
        report.promises = [
            (f"no step keeps the event loop for more than {most:g} ms", f"{stall:.0f} ms", stall <= most),
            (f"no process takes more than {MOST_MEMORY:g} MB", f"{memory:.0f} MB", memory <= MOST_MEMORY),
            (f"all are served within {seconds:.1f} s after a cold start", f"{cold.last:.1f} s", cold.last <= seconds),
        ]
        return report


def table_of(cold: Cold, number: int) -> Table:
    """Return a cold start as a table."""
    made = Table(f"A cold start from the node's file, with {number:,} routes", COLD)
    made.rows.append(
        [
            f"{cold.middle:.1f}",
            f"{cold.last:.1f}",
            f"{cold.cpu:.1f}",
            *(f"{size / 1e6:.0f}" for size in (cold.file, cold.agent, cold.nginx)),
        ]
    )
    made.notes.append("NGINX and the agent start anew; the API and the store are down. The file is in the page cache.")
    return made


def start(phase: str, url: str, number: int, port: int) -> subprocess.Popen[str]:
    """Start a phase."""
    root = Path(__file__).parents[2]
    return subprocess.Popen(
        [sys.executable, "-m", "bench.million", phase, url, str(number), str(port)],
        cwd=root,
        env={**os.environ, "PYTHONPATH": f"{root / 'src'}:{root}"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )


def found(process: subprocess.Popen[str]) -> list[Step]:
    """Return what a phase found, once it has ended."""
    said, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(f"a phase ended with {process.returncode}")
    return [Step(**step) for step in json.loads(said.splitlines()[-1])]


def run(phase: str, url: str, number: int, port: int) -> list[Step]:
    """Run a phase, and return what it found."""
    return found(start(phase, url, number, port))


def until_listening(port: int, process: subprocess.Popen[str]) -> None:
    """Wait until somebody answers there."""
    while process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise RuntimeError("the API did not start")
