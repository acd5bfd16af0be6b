"""Load of WebSockets: messages to and fro over connections that stay, as fast as they come back."""

from __future__ import annotations

import asyncio
import contextlib
import os
import statistics
import time
from collections.abc import Iterator

from bench.machine import percentile
from bench.stage import LOAD_CPUS
from bench.visitors import upgraded
from bench.wrk import Load

CONNECTIONS = 32
MESSAGE = b"x" * 32


def run(port: int, host: str, seconds: float) -> Load:
    """Send and receive for some seconds; each message that came back is a request of the result."""
    with _on(LOAD_CPUS):
        return asyncio.run(_run(port, host, seconds))


async def _run(port: int, host: str, seconds: float) -> Load:
    sockets = [await upgraded(port, host) for _ in range(CONNECTIONS)]
    began = time.perf_counter()
    taken, failed = list[float](), 0

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal failed
        with contextlib.closing(writer):
            while (sent := time.perf_counter()) - began < seconds:
                writer.write(MESSAGE)
                try:
                    await reader.readexactly(len(MESSAGE))
                except (OSError, EOFError):
                    failed += 1
                    return
                taken.append((time.perf_counter() - sent) * 1000)

    await asyncio.gather(*(talk(*pair) for pair in sockets))
    return Load(len(taken), time.perf_counter() - began, statistics.median(taken), percentile(taken, 0.99), failed)


@contextlib.contextmanager
def _on(cpus: tuple[int, ...]) -> Iterator[None]:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
