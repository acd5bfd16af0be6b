"""One GET, asked straight at an instance: whether it answers, and what status. A wake waits for this.

By way of a plain connection, and with an eye for the status alone: a client for all of HTTP takes ten times as long for
it, and looks at redirects, cookies and bodies, which may be anything.
"""

from __future__ import annotations

import asyncio
import re

from sourcelair.servers.drivers.base import Listener

READ = 1 << 16
"""Bytes that are read at once."""

LONGEST_HEAD = 1 << 17
"""Bytes of an answer within which its head must end."""

_BEGIN = b"HTTP/1."
_HEAD = re.compile(rb"HTTP/1\.[01] (\d{3})(?: [^\0\n]*)?\r?\n(?:[!-9;-~]+[ \t]*:[^\0\n]*\n|[ \t][^\0\n]*\n)*\r?\n")
"""The head of an answer (RFC 9112, sections 4 and 5). Recipients put up with bare line feeds and folded lines."""

_END = re.compile(rb"\n\r?\n")

_WORD = re.compile(r"[!-~]+")
"""What may stand in a request's head between blanks."""


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
    if not all(map(_WORD.fullmatch, (host, path, agent))):
        raise NoAnswer(f"{path!r} can't be asked for")
    question = f"GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: {agent}\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    try:
        async with asyncio.timeout(timeout):
            reader, writer = await asyncio.open_connection(listener.host, listener.port)
            try:
                writer.write(question.encode())
                return await _status(reader)
            finally:
                writer.transport.abort()
    except TimeoutError:  # an OSError, too
        raise
    except OSError as error:
        raise NoAnswer(str(error) or type(error).__name__) from error


async def _status(reader: asyncio.StreamReader) -> int:
    came = b""
    while True:
        if end := _END.search(came):
            head = _HEAD.fullmatch(came, 0, end.end())
            if head is None:
                raise NoAnswer("what it said is no answer of HTTP/1")
            if int(head[1]) >= 200:
                return int(head[1])
            came = came[end.end() :]  # the answer is still to come
            continue
        if not came.startswith(_BEGIN[: len(came)]):
            raise NoAnswer("what it said is no answer of HTTP/1")
        if len(came) > LONGEST_HEAD:
            raise NoAnswer(f"the head of its answer is longer than {LONGEST_HEAD >> 10} KiB")
        data = await reader.read(READ)
        if not data:
            raise NoAnswer("it closed the connection")
        came += data
