"""A real Redis for tests: on a free port of loopback, with nothing on disk, and gone at the end."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from redis.exceptions import AuthenticationError
from redis.exceptions import ConnectionError as NotConnected
from tests.ports import claimed_stretch

from redis import Redis

STARTED = 20.0
"""Seconds in which it must take connections on a busy test machine."""


@dataclass(frozen=True)
class RedisServer:
    """A running server, and a client of it."""

    port: int
    client: Redis

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"


@contextlib.contextmanager
def running_redis(directory: Path, password: str | None = None) -> Iterator[RedisServer]:
    """Run a server, and end it. `bin/setup --dev` installs it: where it is missing, that fails the test."""
    with claimed_stretch(1) as ports:
        command = [
            "redis-server",
            "--port",
            str(ports[0]),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--dir",
            str(directory),
        ]
        if password is not None:
            command += ["--requirepass", password]
        with (directory / "redis.log").open("ab") as log:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        client = Redis(host="127.0.0.1", port=ports[0], password=password, decode_responses=True)
        try:
            _wait(process, client)
            yield RedisServer(ports[0], client)
        finally:
            client.close()
            process.kill()
            process.wait()


def _wait(process: subprocess.Popen[bytes], client: Redis) -> None:
    deadline = time.monotonic() + STARTED
    while True:
        try:
            client.ping()
        except NotConnected as error:
            if isinstance(error, AuthenticationError) or process.poll() is not None or time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return
