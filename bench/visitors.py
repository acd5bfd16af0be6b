"""Visitors who stay while routes change: WebSockets that are open all the time, and requests on kept connections."""

from __future__ import annotations

import asyncio
import base64
import os
from dataclasses import dataclass

from bench.asking import Call, Kept
from bench.echo import accept

BEAT = 0.05
"""Seconds between two messages of a WebSocket."""

PAUSE = 0.002
"""Seconds between two requests of a visitor."""

PATIENCE = 10.0
"""Seconds after which a message that has not come back is lost."""


@dataclass
class Met:
    """What visitors met."""

    sockets: int = 0
    """WebSockets that were opened."""
    dropped: int = 0
    """Of these, those that were closed, or lost a message."""
    requests: int = 0
    failed: int = 0
    """Requests that broke, or were not answered with 2xx."""


async def hold(port: int, host: str, met: Met, over: asyncio.Event) -> None:
    """Open a WebSocket, and send and receive until it is over."""
    reader, writer = await upgraded(port, host)
    met.sockets += 1
    try:
        while not over.is_set():
            message = os.urandom(32)
            writer.write(message)
            async with asyncio.timeout(PATIENCE):
                if await reader.readexactly(len(message)) != message:
                    raise ConnectionError("another message came back")
            await asyncio.sleep(BEAT)
    except (OSError, EOFError):
        met.dropped += 1
    finally:
        writer.close()


async def upgraded(port: int, host: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Return an open WebSocket to a host of a proxy on loopback. Raises RuntimeError: it was refused."""
    key = base64.b64encode(os.urandom(16))
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(
        f"GET /socket HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key.decode()}\r\n\r\n".encode()
    )
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE)
    if not head.startswith(b"HTTP/1.1 101") or accept(key) not in head:
        raise RuntimeError(f"no WebSocket to {host}: {head[:300]!r}")
    return reader, writer


async def visit(port: int, host: str, met: Met, over: asyncio.Event) -> None:
    """Ask for a host on one connection until it is over; one that was closed is opened anew."""
    request = Call("GET", "/port", headers={"User-Agent": "bench"}).encoded(host)
    async with Kept(port) as connection:
        while not over.is_set():
            met.requests += 1
            try:
                status, _ = await connection.ask(request)
            except OSError:
                met.failed += 1
            else:
                met.failed += not 200 <= status < 300
            await asyncio.sleep(PAUSE)
