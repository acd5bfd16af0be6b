"""Load from wrk (https://github.com/wg/wrk): requests as fast as they are answered, over connections that stay."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.stage import LOAD_CPUS

CONNECTIONS = 64

_SCRIPT = """
local hosts, body, at = {hosts}, {body}, 0
local method = body and "POST" or "GET"
local requests = {{}}
function init()
  math.randomseed(os.time())
  for number, host in ipairs(hosts) do
    requests[number] = wrk.format(method, "{path}", {{ Host = host, ["User-Agent"] = "wrk" }}, body)
  end
end
function request()
  at = at % #requests + 1
  return requests[at]
end
function done(summary, latency)
  io.write(string.format("RESULT %d %d %d %d %d %d %d\\n", summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(99), summary.errors.status,
    summary.errors.connect + summary.errors.read + summary.errors.write, summary.errors.timeout))
end
"""


@dataclass(frozen=True, slots=True)
class Load:
    """What one run of wrk saw: milliseconds where it says so."""

    requests: int
    seconds: float
    p50: float
    p99: float
    failed: int

    @property
    def rate(self) -> float:
        """Return requests a second."""
        return self.requests / self.seconds


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked for: each host in its turn; with a body it is a POST."""

    hosts: Sequence[str]
    path: str = "/"
    body_bytes: int = 0


def run(folder: Path, port: int, question: Question, seconds: float, connections: int = CONNECTIONS) -> Load:
    """Ask a proxy on loopback for some seconds.

    Raises:
        RuntimeError: wrk failed.
    """
    hosts = "{" + ", ".join(f'"{host}"' for host in question.hosts) + "}"
    body = f'string.rep("x", {question.body_bytes})' if question.body_bytes else "nil"
    script = folder / "load.lua"
    script.write_text(_SCRIPT.format(hosts=hosts, body=body, path=question.path))
    command = [
        "taskset",
        "-c",
        ",".join(map(str, LOAD_CPUS)),
        "wrk",
        "-t1",
        f"-c{connections}",
        f"-d{max(1, round(seconds))}s",
    ]
    done = subprocess.run(
        [*command, "--timeout", "10s", "-s", str(script), f"http://127.0.0.1:{port}"],
        capture_output=True,
        text=True,
        timeout=seconds + 60,
        check=False,
    )
    found = re.search(r"^RESULT (.*)$", done.stdout, re.MULTILINE)
    if found is None:
        raise RuntimeError(f"wrk said nothing of use: {done.stdout}{done.stderr}")
    requests, micros, p50, p99, *errors = map(int, found[1].split())
    return Load(requests, micros / 1e6, p50 / 1000, p99 / 1000, sum(errors))
