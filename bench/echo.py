"""A target for WebSockets: it takes every upgrade, and sends back what it gets. `python -m bench.echo PORT...`.

No proxy looks into the bytes after the handshake; so they are no frames here.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import re
import sys

_KEY = re.compile(rb"\r\nsec-websocket-key: *([^\r]+)\r\n", re.IGNORECASE)
_MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
"""Of RFC 6455, section 1.3."""


def accept(key: bytes) -> bytes:
    """Return the `Sec-WebSocket-Accept` to a key (RFC 6455, section 4.2.2)."""
    return base64.b64encode(hashlib.sha1(key + _MAGIC, usedforsecurity=False).digest())


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError, EOFError, asyncio.CancelledError):
        key = _KEY.search(await reader.readuntil(b"\r\n\r\n"))
        if key is None:
            writer.write(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
        else:
            writer.write(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Accept: " + accept(key[1]) + b"\r\n\r\n"
            )
            while part := await reader.read(65536):
                writer.write(part)
                await writer.drain()
    writer.close()


async def main(ports: list[int]) -> None:
    """Serve on these ports, for ever."""
    async with contextlib.AsyncExitStack() as stack:
        for port in ports:
            await stack.enter_async_context(await asyncio.start_server(_serve, "127.0.0.1", port))
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main([int(port) for port in sys.argv[1:]]))
