"""Connections that can be cut: a small TCP proxy, which passes bytes on, holds them back, or resets all connections.

It has a thread and an event loop of its own, so that it works while a test blocks.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from enum import Enum


class State(Enum):
    """What becomes of bytes."""

    WHOLE = "they go through"
    SILENT = "none arrive, in either direction, and nobody is told"
    MUTE = "what is asked arrives, what is answered does not"
    BROKEN = "every connection is reset, and so is each new one"


class Wire:
    """A port that leads to another one.

    Args:
        to: the port that it leads to.
        port: of its own; 0 for any that is free.
    """

    def __init__(self, to: int, port: int = 0) -> None:
        self.to = to
        self.state = State.WHOLE
        self.is_cut_from: Callable[[int], bool] = lambda _: False
        """Tells by the port from which somebody connects whether for them it is silent. Changed by `set` alone."""
        self._listener = socket.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind(("127.0.0.1", port))
        self._listener.listen(128)
        self.port: int = self._listener.getsockname()[1]
        self._links = set[_Link]()
        self._accepted = set[asyncio.Task[None]]()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),), daemon=True)

    def __enter__(self) -> Wire:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()
        self._loop.close()

    def set(self, state: State, is_cut_from: Callable[[int], bool] = lambda _: False) -> None:
        """Change it, for the connections that there are and for all that come; returns once it is so."""

        async def change() -> None:
            self.state, self.is_cut_from = state, is_cut_from
            for link in list(self._links):
                link.obey()

        asyncio.run_coroutine_threadsafe(change(), self._loop).result(10)

    async def _serve(self) -> None:
        self._over = asyncio.Event()
        server = await asyncio.start_server(self._accept, sock=self._listener)
        await self._over.wait()
        server.close()
        for link in list(self._links):
            link.reset()
        for task in self._accepted:
            task.cancel()
        await asyncio.gather(*self._accepted, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link, task = _Link(self, writer), asyncio.current_task()
        assert task is not None
        self._links.add(link)
        self._accepted.add(task)
        try:
            if self.state is not State.BROKEN:
                await link.carry(reader)
        finally:
            self._links.discard(link)
            self._accepted.discard(task)
            link.reset()


class _Link:
    """One connection through a wire."""

    def __init__(self, wire: Wire, client: asyncio.StreamWriter) -> None:
        self._wire = wire
        self._client = client
        self._server: asyncio.StreamWriter | None = None
        self._source: int = client.get_extra_info("peername")[1]
        self._changed = asyncio.Event()
        self._is_cut = wire.is_cut_from(self._source)

    def obey(self) -> None:
        self._is_cut = self._wire.is_cut_from(self._source)
        self._changed.set()
        if self._wire.state is State.BROKEN:
            self.reset()

    def reset(self) -> None:
        for writer in (self._client, self._server):
            if writer is not None and not writer.is_closing():
                raw = writer.get_extra_info("socket")
                with contextlib.suppress(OSError):
                    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                writer.transport.abort()

    async def carry(self, client: asyncio.StreamReader) -> None:
        await self._while_held(asked=True)
        try:
            server, self._server = await asyncio.open_connection("127.0.0.1", self._wire.to)
        except OSError:
            return
        ways = [
            asyncio.create_task(self._pass(client, self._server, asked=True)),
            asyncio.create_task(self._pass(server, self._client, asked=False)),
        ]
        _, rest = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for task in rest:
            task.cancel()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, asked: bool) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                await self._while_held(asked=asked)
                writer.write(data)
                await writer.drain()

    async def _while_held(self, *, asked: bool) -> None:
        while self._is_held(asked=asked):
            self._changed.clear()
            await self._changed.wait()

    def _is_held(self, *, asked: bool) -> bool:
        state = self._wire.state
        return state is State.SILENT or (state is State.MUTE and not asked) or self._is_cut


@contextlib.contextmanager
def wires(*to: int) -> Iterator[list[Wire]]:
    """Lay a wire to each of these ports."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(Wire(port)) for port in to]
