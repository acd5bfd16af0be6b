"""The smallest HTTP server that does: what a mock instance answers with."""

from __future__ import annotations

import asyncio
import re
from http import HTTPStatus
from typing import Self

_LENGTH = re.compile(rb"^content-length:\s*(\d+)", re.IGNORECASE | re.MULTILINE)


class Site:
    """Answers every request with one status and one text. Bodies are read and dropped.

    Args:
        status: of every answer.
        text: the whole body.
        running: nothing is read or answered while this is not set; connections are taken all the same, as the kernel
            does for a process that is frozen.
    """

    def __init__(self, status: int, text: str, running: asyncio.Event) -> None:
        self._running = running
        self._body = text.encode()
        start = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Type: text/plain\r\n"
        self._head = f"{start}Content-Length: {len(self._body)}\r\n\r\n".encode()
        self._visitors: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    @classmethod
    async def open(cls, host: str, port: int, text: str, status: int, running: asyncio.Event) -> Self:
        """Listen on an address.

        Raises:
            OSError: it is taken.
        """
        site = cls(status, text, running)
        site._server = await asyncio.start_server(site._visit, host, port)
        return site

    def close(self) -> None:
        """Listen no more, and reset the connections that stand, as a process that is killed does."""
        if self._server is not None:
            self._server.close()
        for writer in self._visitors:
            writer.transport.abort()

    async def _visit(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._visitors.add(writer)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                if length := _LENGTH.search(head):
                    await reader.readexactly(int(length[1]))
                await self._running.wait()
                writer.write(self._head + (b"" if head.startswith(b"HEAD ") else self._body))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            self._visitors.discard(writer)
            writer.close()
