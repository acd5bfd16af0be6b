"""What a page is told while it is open: how far its server is, what that says as it starts, and when it will sleep."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import Any

from sourcelair.client.servers import Server
from sourcelair.errors import LairError
from sourcelair.hemera.pages import facts
from sourcelair.hemera.service import HemeraService
from sourcelair.hemera.start_logs import StartLog
from sourcelair.hemera.timeleft import TimeLeft
from sourcelair.streams import event

LONGEST_STREAM = 600.0
"""Seconds after which a visitor's stream ends; pages open it again."""


class _Warnings:
    """The newest warning of a server's sleep, for one page."""

    def __init__(self) -> None:
        self.left: TimeLeft | None = None
        self.changed = asyncio.Event()

    async def follow(self, service: HemeraService, host: str) -> None:
        """Keep up with it, for ever."""
        async for left in service.timeleft.watch(host):
            self.left = left
            changed, self.changed = self.changed, asyncio.Event()
            changed.set()


def telling(service: HemeraService, host: str) -> dict[str, Any]:
    """Return how far the server of a host is.

    `state` is the server's, `page` the one that its page would tell; `go`: something else than this page is there.
    """
    server = service.directory.at(host)
    page = facts.state_of(server)
    if server is None or page != "starting":
        if server is not None:
            service.waits.over(server)
        return {
            "state": page, "page": page, "stage": "", "said": "", "place": None, "elapsed": None, "usual": None,
            "changed": facts.changed(server) if server else 0, "go": True,
        }  # fmt: skip
    place = service.waker.place(server)
    told = facts.waiting(server, host, "/", place=place, elapsed=service.waits.elapsed(server))
    if server.state == "awake":
        service.waits.over(server)
    return {
        "state": server.state, "page": page, "stage": told.stage, "said": told.said, "place": told.place,
        "elapsed": told.elapsed, "usual": told.usual, "changed": facts.changed(server), "go": server.state == "awake",
    }  # fmt: skip


async def progress(service: HemeraService, host: str) -> AsyncGenerator[bytes, None]:
    """Give the state of a host's server whenever it changes, and the lines of its log where visitors may see them.

    While it is awake, `sleep-warning` tells when it is about to sleep, and with null that it is not any more.
    """
    loop = asyncio.get_running_loop()
    end, told = loop.time() + LONGEST_STREAM, dict[str, Any]()
    yield b"retry: 500\n\n"
    try:
        await service.directory.find(host)
    except LairError:
        return
    warnings, warned = _Warnings(), None
    async with contextlib.AsyncExitStack() as ends:
        ends.push_async_callback(_cancel, asyncio.ensure_future(warnings.follow(service, host)))
        following = ends.enter_context(contextlib.ExitStack())
        log, instance, seen = StartLog(), "", ("", 0)
        while (left := end - loop.time()) > 0:
            changed, warning = service.directory.change_at(host), warnings.changed
            now = telling(service, host)
            if {**now, "elapsed": None} != {**told, "elapsed": None}:
                told = now
                yield event("state", now)
            server = service.directory.at(host)
            wanted = _log_of(server)
            if wanted != instance:
                following.close()
                instance, log = wanted, StartLog()
                if server is not None and wanted:
                    log = following.enter_context(service.start_logs.watch(server))
            more = log.changed
            if news := log.since(*seen):
                seen = (log.run, log.count)
                yield event("log", news)
            if warnings.left is not warned:
                warned = warnings.left
                yield event("sleep-warning", _warning(warned))
            if not changed.is_set() and not more.is_set() and not warning.is_set():
                await _any_of(changed, more, warning, timeout=left)


def _warning(left: TimeLeft | None) -> dict[str, Any]:
    if left is None or not left.warning:
        return {"seconds_left": None, "sleeps_at": None}
    return {"seconds_left": left.seconds_left, "sleeps_at": left.sleeps_at}


def _log_of(server: Server | None) -> str:
    """Return the instance whose log its pages may show; nothing where there is none."""
    if server is None or server.state != "starting" or not server.policy.wake.show_log or server.instance is None:
        return ""
    return server.instance.id


async def _any_of(*events: asyncio.Event, timeout: float) -> None:
    waiting = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waiting, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for each in waiting:
            each.cancel()


async def _cancel(task: asyncio.Future[None]) -> None:
    task.cancel()
    await asyncio.wait([task])
