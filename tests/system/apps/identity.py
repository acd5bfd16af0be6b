"""A project server that keeps books: it says who it is, writes down every start and every request, and echoes bodies.

`python identity.py PORT BOOKS NAME`: `BOOKS/starts` gets a line for each start, `BOOKS/twice` one for each start while
another one runs, `BOOKS/requests` one for each request that carries `X-Request`, before it is answered, and
`BOOKS/messages` one for each WebSocket message that begins with `#`. With `KEEP_ALIVE` (seconds) it closes connections
that were idle for so long. Told to end, it closes its WebSockets as a well-behaved app does. Standard library only, so
that it starts fast.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import fcntl
import hashlib
import json
import os
import signal
import sys
from pathlib import Path

WEBSOCKET = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

PORT, BOOKS, NAME = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
INSTANCE = os.environ.get("LAIR_INSTANCE", "")
KEEP_ALIVE = float(os.environ["KEEP_ALIVE"]) if "KEEP_ALIVE" in os.environ else None
GOING_AWAY = b"\x88\x02\x03\xe9"
"""A close frame that says 1001."""

LAST_WORDS = 2.0
"""Seconds that visitors' WebSockets have to answer a close frame."""

open_sockets: set[asyncio.StreamWriter] = set()
ending = asyncio.Event()


def note(book: str, line: str) -> None:
    """Append one line at once; O_APPEND keeps lines of several processes whole."""
    fd = os.open(BOOKS / book, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(fd, (line + "\n").encode())
    finally:
        os.close(fd)


async def read_body(reader: asyncio.StreamReader, headers: dict[str, str]) -> tuple[int, str]:
    """Return the size and the SHA-256 of the body."""
    digest, size = hashlib.sha256(), 0
    if "chunked" in headers.get("transfer-encoding", ""):
        while length := int(await reader.readline(), 16):
            digest.update(await reader.readexactly(length))
            size += length
            await reader.readline()
        await reader.readline()
    left = int(headers.get("content-length", "0"))
    while left:
        piece = await reader.readexactly(min(left, 65536))
        digest.update(piece)
        size += len(piece)
        left -= len(piece)
    return size, digest.hexdigest()


async def echo_frames(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer every short text frame with `NAME: text` (RFC 6455; frames of up to 125 bytes are enough here)."""
    while True:
        first, second = await reader.readexactly(2)
        mask = await reader.readexactly(4)
        data = bytes(b ^ mask[i % 4] for i, b in enumerate(await reader.readexactly(second & 0x7F)))
        if first & 0x0F == 8:
            writer.write(b"\x88\x00")
            return
        if ending.is_set():
            continue
        if data.startswith(b"#"):
            note("messages", data.decode())
        reply = f"{NAME}: ".encode() + data
        writer.write(bytes([0x81, len(reply)]) + reply)
        await writer.drain()


async def next_head(reader: asyncio.StreamReader, *, first: bool) -> bytes:
    """Return the head of the next request; none where nothing came for the time of keep-alive after an answer."""
    try:
        async with asyncio.timeout(None if first else KEEP_ALIVE):
            return await reader.readuntil(b"\r\n\r\n")
    except TimeoutError:
        return b""


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer the requests of one connection."""
    first = True
    while head := await next_head(reader, first=first):
        first = False
        request_line, *lines = head.decode("latin-1").split("\r\n")
        method, target, _ = request_line.split(" ", 2)
        fields = [tuple(line.split(": ", 1)) for line in lines if line]
        headers = {name.lower(): value for name, value in fields}
        path, _, query = target.partition("?")
        size, digest = await read_body(reader, headers)
        if "x-request" in headers:
            note("requests", headers["x-request"])
        extra, status, said = b"", b"200 OK", None
        if "sec-websocket-key" in headers:
            accept = base64.b64encode(hashlib.sha1(headers["sec-websocket-key"].encode() + WEBSOCKET).digest())
            writer.write(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
            )
            open_sockets.add(writer)
            try:
                await echo_frames(reader, writer)
            finally:
                open_sockets.discard(writer)
            return
        match path:
            case "/slow":
                await asyncio.sleep(float(query))
            case "/busy":
                said = await asyncio.to_thread(say_busy, float(query))
            case "/may-sleep" if (BOOKS / "veto").exists():
                status = b"409 Conflict"
            case "/die":
                os._exit(3)
            case "/accel":
                extra = f"X-Accel-Redirect: {query}\r\nX-Accel-Limit-Rate: 1\r\n".encode()
            case "/stream":
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")
                for number in range(int(query)):
                    writer.write(f"data: {number}\n\n".encode())
                    await writer.drain()
                    await asyncio.sleep(0.2)
                return
        body = json.dumps(
            {
                "name": NAME, "instance": INSTANCE, "pid": os.getpid(), "method": method, "target": target,
                "size": size, "sha256": digest, "headers": fields, "said": said,
            }
        ).encode()  # fmt: skip
        writer.write(
            b"HTTP/1.1 " + status + b"\r\nContent-Type: application/json\r\nServer-Name: "
            + NAME.encode() + b"\r\nContent-Length: " + str(len(body)).encode() + b"\r\n" + extra + b"\r\n"
        )  # fmt: skip
        if method != "HEAD":
            writer.write(body)
        await writer.drain()


def say_busy(seconds: float) -> int:
    """Tell the API that this app is busy, with the token that it was given; return the status of the answer."""
    import urllib.request  # only here: it costs a cold start more than all the rest

    request = urllib.request.Request(
        os.environ["LAIR_API"].rstrip("/") + "/api/instance/busy",
        json.dumps({"seconds": seconds}).encode(),
        {"Authorization": f"Bearer {os.environ['LAIR_TOKEN']}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        return int(answer.status)


async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One connection; whoever leaves in the middle is no error."""
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        await serve(reader, writer)
    writer.close()


async def main() -> None:
    """Listen until the process is told to end."""
    note("starts", f"{INSTANCE} {os.getpid()}")
    alone = os.open(BOOKS / "alone", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(alone, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        note("twice", INSTANCE)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ending.set)
    server = await asyncio.start_server(connected, "127.0.0.1", PORT, backlog=512)
    await ending.wait()
    server.close()
    for writer in open_sockets:
        writer.write(GOING_AWAY)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LAST_WORDS):
            while open_sockets:
                await asyncio.sleep(0.01)
    os._exit(0)


asyncio.run(main())
