"""A small app with a WebSocket: a page that shows the server's time, sent every second. Standard library only.

Run it: ``python app.py PORT``. An open page keeps its server awake; close it, and the server sleeps in the end.
The WebSocket protocol is RFC 6455; this server only ever sends text, and answers pings and the close.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import sys
import time
from pathlib import Path

MAGIC = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
PAGE = Path(__file__).with_name("index.html").read_bytes()
TEXT, CLOSE, PING, PONG = 1, 8, 9, 10
LONGEST = 125
"""Bytes of a frame's payload; nobody has to send us more."""


def frame(opcode: int, payload: bytes) -> bytes:
    """Return one whole frame of at most 125 bytes of payload."""
    return bytes([0x80 | opcode, len(payload)]) + payload


async def read_frame(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Return the next frame of a client: its opcode and its payload. Raises ValueError for longer ones."""
    first, second = await reader.readexactly(2)
    length = second & 0x7F
    if length > LONGEST or not second & 0x80:
        raise ValueError("this server takes short, masked frames only")
    mask = await reader.readexactly(4)
    payload = await reader.readexactly(length)
    return first & 0x0F, bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))


async def tick(writer: asyncio.StreamWriter) -> None:
    """Send the time, every second."""
    while True:
        writer.write(frame(TEXT, time.strftime("%H:%M:%S").encode()))
        await writer.drain()
        await asyncio.sleep(1 - time.time() % 1)


async def serve_socket(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, key: str) -> None:
    """Speak WebSocket until the client closes it."""
    accept = base64.b64encode(hashlib.sha1((key + MAGIC).encode()).digest()).decode()
    head = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    writer.write(f"{head}Sec-WebSocket-Accept: {accept}\r\n\r\n".encode())
    ticking = asyncio.create_task(tick(writer))
    try:
        while True:
            opcode, payload = await read_frame(reader)
            if opcode == CLOSE:
                writer.write(frame(CLOSE, payload[:2]))
                return
            if opcode == PING:
                writer.write(frame(PONG, payload))
    finally:
        ticking.cancel()


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer one connection: the page, or the WebSocket at /time."""
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        path = head[0].split(" ")[1]
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
        if path == "/time" and "sec-websocket-key" in headers:
            await serve_socket(reader, writer, headers["sec-websocket-key"])
            return
        status, body = ("200 OK", PAGE) if path in {"/", "/index.html"} else ("404 Not Found", b"Nothing here.\n")
        kind = "text/html; charset=utf-8" if status.startswith("200") else "text/plain"
        answer = (
            f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        writer.write(answer.encode() + (b"" if head[0].startswith("HEAD ") else body))
        await writer.drain()
    except (OSError, ValueError, IndexError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        pass  # the client has gone, or spoke nonsense
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def main(port: int) -> None:
    """Serve until this process is told to end."""
    server = await asyncio.start_server(serve, "127.0.0.1", port)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(int(sys.argv[1])))
