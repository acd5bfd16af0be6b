"""A cluster of etcd on loopback, with its data on disk: for ours, and for peers that read it.

Its members run beside the load, not on the proxy's processor: elsewhere they are other machines.
"""

from __future__ import annotations

import base64
import http.client
import itertools
import json
import subprocess
import time
from collections.abc import Iterable, Mapping
from typing import Any

from bench.asking import Call
from bench.install import program
from bench.stage import LOAD_CPUS, Stage, until_accepts
from bench.usage import cpu_seconds, memory_bytes

MEMBERS = 3

MOST_OPERATIONS = 4096
"""Of a transaction. Ours needs no more than etcd's own 128; a peer's changes at once are one transaction with it."""

QUOTA = 8 << 30
"""Bytes of a member's data: a million routes and their history are more than etcd's own 2 GiB leave room for."""

HEALTHY = 30.0
"""Seconds in which all members must have found a leader."""


class Etcd:
    """Members that may be killed and started again with what they had on disk. They end with the stage.

    Args:
        stage: where.
    """

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._folders = [stage.folder("etcd") for _ in range(MEMBERS)]
        self.ports = [stage.free_port() for _ in range(MEMBERS)]
        """For clients, of each member."""
        self._peers = [stage.free_port() for _ in range(MEMBERS)]
        self._processes: list[subprocess.Popen[bytes]] = []
        self.start()

    def start(self) -> None:
        """Start all members, the first time or again after `kill`, and wait until each has a leader.

        Raises:
            RuntimeError: one ended, or has none in time.
        """
        everybody = ",".join(f"m{number}=http://127.0.0.1:{port}" for number, port in enumerate(self._peers))
        self._processes = []
        for number, (folder, port, peer) in enumerate(zip(self._folders, self.ports, self._peers, strict=True)):
            command = [
                program("etcd"),
                f"--name=m{number}",
                f"--data-dir={folder / 'data'}",
                f"--listen-client-urls=http://127.0.0.1:{port}",
                f"--advertise-client-urls=http://127.0.0.1:{port}",
                f"--listen-peer-urls=http://127.0.0.1:{peer}",
                f"--initial-advertise-peer-urls=http://127.0.0.1:{peer}",
                f"--initial-cluster={everybody}",
                f"--max-txn-ops={MOST_OPERATIONS}",
                f"--quota-backend-bytes={QUOTA}",
                "--log-level=error",
            ]
            self._processes.append(self._stage.spawn(command, cpus=LOAD_CPUS, cwd=folder))
        for port, process in zip(self.ports, self._processes, strict=True):
            until_accepts(port, process)
            _until_healthy(port)

    def kill(self) -> None:
        """Kill all members (`kill -9`)."""
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait()

    def url(self, prefix: str) -> str:
        """Return the address of the store of ours below a prefix, such as `/lair`."""
        return f"etcd://{','.join(f'127.0.0.1:{port}' for port in self.ports)}{prefix}"

    def pids(self) -> list[int]:
        """Return the processes of all members."""
        return [process.pid for process in self._processes]

    def cpu(self) -> float:
        """Return the processor time that its members have used since they were started, in seconds."""
        return cpu_seconds(self.pids())

    def memory(self) -> int:
        """Return the memory of all members, in bytes."""
        return memory_bytes(self.pids())

    def disk(self) -> int:
        """Return the bytes that all members take on disk."""
        return sum(file.stat().st_blocks * 512 for folder in self._folders for file in folder.rglob("*"))

    def write(self, pairs: Iterable[tuple[str, str]]) -> None:
        """Write keys, as many in one transaction as there may be. Raises RuntimeError: it was refused."""
        member = http.client.HTTPConnection("127.0.0.1", self.ports[0], timeout=HEALTHY)
        left = iter(pairs)
        while some := dict(itertools.islice(left, MOST_OPERATIONS)):
            call = put(some)
            member.request(call.method, call.path, call.body, dict(call.headers))
            answer = member.getresponse()
            text = answer.read()
            if answer.status != 200:
                raise RuntimeError(f"etcd answered {answer.status}: {text[:300]!r}")
        member.close()


def put(pairs: Mapping[str, str], changes: int = 1) -> Call:
    """Return what writes keys, all or none, over a member's JSON gateway; `changes` is how many routes that changes."""
    puts = [{"requestPut": {"key": _encoded(key), "value": _encoded(value)}} for key, value in pairs.items()]
    body: dict[str, Any] = {"success": puts}
    return Call("POST", "/v3/kv/txn", json.dumps(body).encode(), {"Content-Type": "application/json"}, changes)


def _encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _until_healthy(port: int) -> None:
    deadline = time.monotonic() + HEALTHY
    while True:
        member = http.client.HTTPConnection("127.0.0.1", port, timeout=HEALTHY)
        try:
            member.request("GET", "/health")
            answer = member.getresponse()
            if json.loads(answer.read()).get("health") == "true":
                return
        finally:
            member.close()
        if time.monotonic() > deadline:
            raise RuntimeError(f"etcd on port {port} has no leader after {HEALTHY:g} s")
        time.sleep(0.02)
