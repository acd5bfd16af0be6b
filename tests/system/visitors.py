"""Visitors: plain HTTP/1.1 on real sockets, so that nothing is retried, pooled or hidden by a client library."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

PATIENCE = 60.0
"""Seconds after which a visitor gives up, and the test fails."""


@dataclass
class Answer:
    """One answer, with names of headers in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """Return the decoded body."""
        return json.loads(self.body)


class Visitor:
    """One connection to the proxy."""

    def __init__(self, address: tuple[str, int], host: str) -> None:
        self.address, self.host = address, host
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def send(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> None:
        """Send a request."""
        if self._streams is None:
            self._streams = await asyncio.open_connection(*self.address)
        fields = {"Host": f"{self.host}:{self.address[1]}", **(headers or {})}
        if body is not None:
            fields["Content-Length"] = str(len(body))
        head = f"{method} {path} HTTP/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in fields.items()) + "\r\n"
        self._streams[1].write(head.encode() + (body or b""))
        await self._streams[1].drain()

    async def answer(self, *, head_only: bool = False) -> Answer:
        """Read one answer."""
        assert self._streams is not None
        reader = self._streams[0]
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines if line)}
        body = b"" if head_only else await self._body(reader, headers)
        if headers.get("connection") == "close":
            await self.close()
        return Answer(int(first.split(" ")[1]), headers, body)

    async def _body(self, reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
        if headers.get("transfer-encoding") == "chunked":
            pieces = []
            while length := int(await reader.readline(), 16):
                pieces.append(await reader.readexactly(length))
                await reader.readline()
            await reader.readline()
            return b"".join(pieces)
        if "content-length" in headers:
            return await reader.readexactly(int(headers["content-length"]))
        return await reader.read()

    async def ask(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> Answer:
        """Send a request and return its answer."""
        async with asyncio.timeout(PATIENCE):
            await self.send(method, path, body, headers)
            return await self.answer(head_only=method == "HEAD")

    async def close(self) -> None:
        """Leave."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


async def fetch(
    address: tuple[str, int],
    host: str,
    path: str = "/",
    *,
    method: str = "GET",
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
) -> Answer:
    """One request on a connection of its own."""
    visitor = Visitor(address, host)
    try:
        return await visitor.ask(method, path, body, headers)
    finally:
        await visitor.close()


@dataclass
class Traffic:
    """What constant visitors saw: `sent` in order, `failures` as text; `names` counts who answered."""

    prefix: str
    sent: list[str] = field(default_factory=list)
    answered: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    names: Counter[str] = field(default_factory=Counter)
    stopping: asyncio.Event = field(default_factory=asyncio.Event)

    async def one(self, visitor: Visitor, method: str) -> None:
        """Send one numbered request; anything but a 200 of the app itself is a failure."""
        number = f"{self.prefix}-{len(self.sent)}"
        self.sent.append(number)
        try:
            answer = await visitor.ask(
                method, f"/?{number}", b"x" * 2000 if method == "POST" else None, {"X-Request": number}
            )
        except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
            self.failures.append(f"{number} {method}: {error!r}")
            await visitor.close()
            return
        if answer.status == 200 and "server-name" in answer.headers:
            self.answered.append(number)
            self.names[answer.headers["server-name"]] += 1
        else:
            self.failures.append(f"{number} {method}: {answer.status} {answer.body[:200]!r}")

    async def keep_going(self, address: tuple[str, int], host: str, gap: float) -> None:
        """Visit by GET and POST in turn, `gap` seconds apart, until stopped."""
        visitor = Visitor(address, host)
        turn = 0
        while not self.stopping.is_set():
            await self.one(visitor, "POST" if turn % 2 else "GET")
            turn += 1
            try:
                await asyncio.wait_for(self.stopping.wait(), gap)
            except TimeoutError:
                continue
        await visitor.close()


@asynccontextmanager
async def traffic(
    address: tuple[str, int], host: str, *, visitors: int = 2, gap: float = 0.01, prefix: str = "t"
) -> AsyncIterator[Traffic]:
    """Constant visitors for as long as the block runs; they finish what they began."""
    seen = Traffic(prefix)
    async with asyncio.TaskGroup() as group:
        for _ in range(visitors):
            group.create_task(seen.keep_going(address, host, gap))
        try:
            yield seen
        finally:
            seen.stopping.set()
