"""The least of HTTP that a measurement needs, so that the client takes little of the machine."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import select
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

TRY_AGAIN = 0.0002
"""Seconds between two tries to see a change: without a pause they take the processor that is to make it."""

TIMEOUT = 60.0
"""Seconds after which nothing more is waited for."""


@dataclass(frozen=True, slots=True)
class Call:
    """One request. `changes` is how many routes it changes."""

    method: str
    path: str
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    changes: int = 1

    def encoded(self, host: str) -> bytes:
        """Return what is sent."""
        lines = [f"{self.method} {self.path} HTTP/1.1", f"Host: {host}", f"Content-Length: {len(self.body)}"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        return "\r\n".join([*lines, "", ""]).encode() + self.body


def fetch(port: int, host: str, path: str) -> bytes:
    """Return what a proxy on loopback answers on a connection of its own, head and all; empty where it breaks off."""
    request = f"GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: bench\r\nConnection: close\r\n\r\n"
    answer = b""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), TIMEOUT) as visitor:
        visitor.sendall(request.encode())
        while part := visitor.recv(65536):
            answer += part
    return answer


def until_served(port: int, host: str, target: int, timeout: float = TIMEOUT) -> float:
    """Ask for a host until its new target answers; return when that was, as `time.perf_counter()`.

    The longer it takes, the longer are the pauses, to 2 % of what has passed.

    Raises:
        RuntimeError: it never does.
    """
    began = time.perf_counter()
    expected = b"\r\n\r\n" + told(target)
    while expected not in fetch(port, host, "/port"):
        passed = time.perf_counter() - began
        if passed > timeout:
            raise RuntimeError(f"{host} does not lead to port {target} after {timeout:g} s")
        time.sleep(max(TRY_AGAIN, passed / 50))
    return time.perf_counter()


def told(target: int) -> bytes:
    """Return what a target answers at /port, see `bench.peers.nginx.upstream`."""
    return f"port {target}\n".encode()


class Kept:
    """A connection that stays, for one request at a time; opened at its first one, and anew where it was closed."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.drop()

    def drop(self) -> None:
        """Close it; the next request opens it anew."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """Send a request, and return the status and the body of its answer.

        Raises:
            OSError: the connection broke, or no answer came in time.
        """
        if self._streams is not None and self._streams[0].at_eof():
            self.drop()  # it was unused for long
        try:
            async with asyncio.timeout(TIMEOUT):
                self._streams = self._streams or await asyncio.open_connection("127.0.0.1", self._port)
                reader, writer = self._streams
                writer.write(request)
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                body = await _body(reader, head)
        except (OSError, EOFError) as error:
            self.drop()
            raise ConnectionError(f"no whole answer: {error or type(error).__name__}") from error
        if "\r\nconnection: close" in head:
            self.drop()
        return int(head.split(" ", 2)[1]), body


async def _body(reader: asyncio.StreamReader, head: str) -> bytes:
    if "\r\ntransfer-encoding: chunked" in head:
        body = b""
        while size := int(await reader.readline(), 16):
            body += (await reader.readexactly(size + 2))[:-2]
        await reader.readline()
        return body
    _, found, rest = head.partition("\r\ncontent-length:")
    return await reader.readexactly(int(rest.partition("\r\n")[0])) if found else b""


class Caller:
    """A connection to an API that stays, where sending a call and reading its answer are two steps."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)

    def send(self, call: Call) -> None:
        """Send a call, on a new connection where the other side has closed this one: it was unused for long."""
        sock = self._connection.sock
        if sock is not None and select.select([sock], [], [], 0)[0]:
            self._connection.close()
        self._connection.request(call.method, call.path, call.body, dict(call.headers))

    def finish(self) -> None:
        """Read the answer. Raises RuntimeError if it is a refusal."""
        answer = self._connection.getresponse()
        text = answer.read()
        if answer.status >= 300:
            raise RuntimeError(f"the call was answered with {answer.status}: {text[:300]!r}")

    def close(self) -> None:
        """Close it; the next call opens it anew."""
        self._connection.close()
