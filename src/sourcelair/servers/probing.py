"""One GET, asked straight at an instance: whether it answers, and what status. A wake waits for this.

By way of h11 and a plain connection: a client for all of HTTP takes ten times as long for it, and looks at redirects
and cookies, which may be anything.
"""

from __future__ import annotations

import asyncio

import h11

from sourcelair.servers.drivers.base import Listener

READ = 1 << 16
"""Bytes that are read at once; a longer head is refused by h11."""


class NoAnswer(Exception):
    """It did not answer HTTP. The message says what it did instead."""


async def ask(listener: Listener, host: str, path: str, *, timeout: float, agent: str) -> int:
    """Return the status of an app's answer to GET, once the head of the answer has come.

    Args:
        listener: where it listens.
        host: sent as `Host`.
        path: to ask for.
        timeout: seconds for all of it.
        agent: sent as `User-Agent`.

    Raises:
        TimeoutError: not in time.
        NoAnswer: it did not answer HTTP, or the path can't be asked for.
    """
    headers = [("Host", host), ("User-Agent", agent), ("Accept", "*/*"), ("Connection", "close")]
    connection = h11.Connection(h11.CLIENT)
    try:
        question = connection.send(h11.Request(method="GET", target=path, headers=headers))
        async with asyncio.timeout(timeout):
            reader, writer = await asyncio.open_connection(listener.host, listener.port)
            try:
                writer.write((question or b"") + (connection.send(h11.EndOfMessage()) or b""))
                return await _status(connection, reader)
            finally:
                writer.transport.abort()
    except TimeoutError:
        raise
    except (OSError, ValueError, h11.ProtocolError) as error:
        raise NoAnswer(str(error) or type(error).__name__) from error


async def _status(connection: h11.Connection, reader: asyncio.StreamReader) -> int:
    while True:
        event = connection.next_event()
        if isinstance(event, h11.Response):
            return event.status_code
        if event is h11.NEED_DATA:
            connection.receive_data(await reader.read(READ))
        elif not isinstance(event, h11.InformationalResponse):  # 1xx: the answer is still to come
            raise NoAnswer("it closed the connection")
