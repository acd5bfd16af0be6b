"""Answers that stay open: streams that end with their client or their service, and long polls that do so too."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Coroutine
from typing import Any, TypeVar

from prometheus_client import Gauge
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from sourcelair.telemetry import METRICS

STREAMS = Gauge("lair_streams", "Open streams: watches, events, logs that are followed.", registry=METRICS)

KEEP_ALIVE = 15.0
"""Seconds between comments on a stream, so that both ends notice a peer that is gone."""

T = TypeVar("T")


def event(name: str, data: Any, identity: str | None = None) -> bytes:
    """Return one event of a text/event-stream. The data is JSON without line breaks of any kind."""
    head = f"event: {name}\n" if identity is None else f"event: {name}\nid: {identity}\n"
    return f"{head}data: {data if isinstance(data, str) else json.dumps(data)}\n\n".encode()


_ENDS = "sourcelair.ends"


def ends_with(request: Request, over: asyncio.Event) -> None:
    """Let the answer to this request end once `over` is set, if it is a stream: its subject or its right is gone."""
    request.scope.setdefault(_ENDS, []).append(over)


class Stream(Response):
    """An answer that ends when its source does, when its client has gone, or when the service closes.

    It ends too when that is so which its request was told, see `ends_with`.

    Args:
        source: pieces of the answer; it is closed in any case.
        closing: set when the service closes.
    """

    media_type = "text/plain"
    keep_alive: bytes | None = None
    """Sent at the beginning, and whenever `KEEP_ALIVE` seconds have passed."""

    def __init__(self, source: AsyncGenerator[bytes, None], closing: asyncio.Event) -> None:
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._source = source
        self._closing = closing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream (ASGI)."""

        async def write(data: bytes, *, more: bool = True) -> None:
            await send({"type": "http.response.body", "body": data, "more_body": more})

        async def pump() -> None:
            async for data in self._source:
                await write(data)

        async def stay() -> None:
            while True:
                if self.keep_alive is not None:
                    await write(self.keep_alive)
                await asyncio.sleep(KEEP_ALIVE)

        STREAMS.inc()
        tasks = list[asyncio.Future[Any]]()
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            gone = asyncio.ensure_future(_gone(receive))
            ends = (self._closing, *scope.get(_ENDS, ()))
            tasks += [gone, *(asyncio.ensure_future(task) for task in (pump(), stay(), *(end.wait() for end in ends)))]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if not gone.done():
                await write(b"", more=False)
        except OSError:
            pass  # the client has gone
        finally:
            STREAMS.dec()
            await _cancel(tasks)
            await self._source.aclose()


class EventStream(Stream):
    """A stream whose pieces are events, as `event` makes them: text/event-stream."""

    media_type = "text/event-stream"
    keep_alive = b": still here\n\n"


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _cancel(tasks: list[asyncio.Future[Any]]) -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.gather(*tasks, return_exceptions=True)


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T | None:
    """Return the work's result; None if the client went away before: then it was cancelled."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_gone(request.receive))
    try:
        await asyncio.wait([task, gone], return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        await _cancel([task, gone])
