"""Logs of starts on their pages: of this start only, bounded, and followed once however many look."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.hemera.test_page import state
from tests.hemera.world import HOST, Hemera

from sourcelair.client.servers import StartRequest
from sourcelair.hemera import start_logs
from sourcelair.hemera.progress import progress
from sourcelair.hemera.start_logs import MOST_LINES, MOST_OF_A_LINE, StartLog
from sourcelair.servers.drivers.mock import Script

pytestmark = pytest.mark.anyio

SHOWN: dict[str, Any] = {"wake": {"show_log": True}}
BEFORE = b"what the run before it said\n"


class Follower:
    """A SourceLair API whose logs a test writes."""

    def __init__(self) -> None:
        self.parts: asyncio.Queue[bytes] = asyncio.Queue()
        self.calls = 0
        self.over = asyncio.Event()

    async def follow_logs(self, owner: str, project: str, *, lines: int, newest: bool) -> AsyncIterator[bytes]:
        assert (owner, project, lines, newest) == ("demo", "blog", MOST_LINES, True)
        self.calls += 1
        try:
            while True:
                yield await self.parts.get()
        finally:
            self.over.set()


@pytest.fixture
def follower(hemera: Hemera, monkeypatch: pytest.MonkeyPatch) -> Follower:
    """In place of the API's log: a stream does not come through an ASGI transport before it ends."""
    found = Follower()
    monkeypatch.setattr(hemera.service.start_logs, "_servers", found)
    monkeypatch.setattr(start_logs, "PACE", 0.0)
    return found


async def starting(hemera: Hemera, **spec: Any) -> None:
    await hemera.life.create(script=Script(listens=False), spec=spec)
    await hemera.life.client.start("demo", "blog", StartRequest(), wait=0)
    await hemera.life.until("starting")
    await hemera.look()


async def test_all_pages_see_it_and_it_is_followed_once(hemera: Hemera, follower: Follower) -> None:
    await starting(hemera, **SHOWN)
    streams = [progress(hemera.service, HOST) for _ in range(3)]
    for stream in streams:
        assert (await state(stream))["stage"] == "starting"
    reading = [asyncio.ensure_future(state(stream, "log")) for stream in streams]
    follower.parts.put_nowait(b"one\ntwo <b>\nunfin")
    told = await asyncio.gather(*reading)
    assert all((each["first"], each["lines"]) == (0, ["one", "two <b>"]) for each in told)
    follower.parts.put_nowait(b"ished\n")
    again = await asyncio.gather(*(state(stream, "log") for stream in streams))
    assert all((each["first"], each["lines"]) == (2, ["unfinished"]) for each in again)
    assert follower.calls == 1
    for stream in streams:
        assert not follower.over.is_set()
        await stream.aclose()
    async with asyncio.timeout(5):
        await follower.over.wait()


async def test_it_ends_with_the_start(hemera: Hemera, follower: Follower) -> None:
    await starting(hemera, **SHOWN)
    stream = progress(hemera.service, HOST)
    await state(stream)
    reading = asyncio.ensure_future(state(stream))
    follower.parts.put_nowait(b"one\n")
    while not follower.calls:
        await asyncio.sleep(0)
    await hemera.life.client.stop("demo", "blog")
    await hemera.look()
    assert (await reading)["stage"] == "queued"
    after = asyncio.ensure_future(anext(stream))
    async with asyncio.timeout(5):
        await follower.over.wait()
    after.cancel()
    await asyncio.wait([after])


async def test_nobody_sees_it_where_the_policy_does_not_say_so(hemera: Hemera, follower: Follower) -> None:
    await starting(hemera)
    stream = progress(hemera.service, HOST)
    await state(stream)
    ended = asyncio.ensure_future(state(stream))
    await hemera.life.client.stop("demo", "blog")
    await hemera.look()
    await ended
    assert follower.calls == 0
    await stream.aclose()


async def test_a_log_without_end_takes_little(hemera: Hemera, follower: Follower) -> None:
    """No more lines than a page shows, no longer ones, and no controls of terminals."""
    await starting(hemera, **SHOWN)
    server = await hemera.life.client.get("demo", "blog")
    with hemera.service.start_logs.watch(server) as log:
        for part in (b"x" * 100_000, b"\n\x1b[31mred\x1b[0m \x07bell\r\n", b"line\n" * 100_000):
            changed = log.changed
            follower.parts.put_nowait(part)
            if b"\n" in part:
                async with asyncio.timeout(5):
                    await changed.wait()
                if b"red" in part:
                    assert list(log.lines) == ["x" * MOST_OF_A_LINE, "red bell"]
        assert len(log.lines) == MOST_LINES
        news = log.since(log.run, 0)
        assert news
        assert news["first"] + len(news["lines"]) == log.count


def test_lines_of_another_run_are_given_from_its_beginning() -> None:
    log = StartLog()
    log.begin()
    log.add(["a", "b"])
    assert log.since(log.run, 2) is None
    assert log.since(log.run, 1) == {"run": log.run, "first": 1, "lines": ["b"]}
    assert log.since("another", 2) == {"run": log.run, "first": 0, "lines": ["a", "b"]}


async def test_what_runs_before_it_said_is_not_among_it(hemera: Hemera) -> None:
    world = hemera.life.world
    log = world.directory / "logs" / "servers" / "blog--demo.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_bytes(BEFORE)
    script = Script(listens=False, output=b"of this start\n")
    await hemera.life.create(script=script, spec=SHOWN)
    await hemera.life.client.start("demo", "blog", StartRequest(), wait=0)
    worker = hemera.life.service.worker("demo", "blog")
    await hemera.life.until("starting")
    while worker.found is None:
        await worker.change(asyncio.get_running_loop().time() + 0.05)

    assert worker.log_begin == len(BEFORE)
    source = worker.driver.logs(log, lines=100, follow=True, begin=worker.log_begin)
    assert await anext(source) == b"of this start\n"
    await source.aclose()


async def test_a_line_of_unfinished_controls_takes_no_time_to_speak_of() -> None:
    log, began = StartLog(), time.process_time()
    log.add(["\x1b]" * 32_768, "\x1b]0;title\x07a\x1b]8;;link\x1b\\b"])
    assert time.process_time() - began < 0.5
    assert log.lines[1] == "ab"
