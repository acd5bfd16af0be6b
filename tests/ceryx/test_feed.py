"""Following the API: what a removal means at any moment."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from sourcelair.ceryx.agent.feed import Feed
from sourcelair.ceryx.agent.journal import Journal
from sourcelair.ceryx.agent.resolve import Resolver
from sourcelair.ceryx.agent.table import NodeTable
from sourcelair.ceryx.agent.wakers import Wakers
from sourcelair.errors import Unreachable

pytestmark = pytest.mark.anyio


class Away:
    """An API that does not answer, until it comes back and never ends its first answer."""

    def __init__(self) -> None:
        self.back = False
        self.asked = 0
        self.registering = asyncio.Event()

    async def register(self, node: str, known: int | None) -> int:
        self.asked += 1
        if not self.back:
            raise Unreachable("away")
        self.registering.set()
        await asyncio.Event().wait()
        raise AssertionError


async def test_a_removal_is_heard_of_between_two_attempts(tmp_path: Path) -> None:
    """The API was away and came back without this node: its reports say so while the feed is in a pause."""
    api = Away()
    journal = Journal(tmp_path / "routes", "boot")
    journal.load()
    feed = Feed(api, "n1", NodeTable(Resolver(30.0), Wakers(Resolver(30.0))), journal)  # type: ignore[arg-type]
    task = asyncio.create_task(feed.run())
    await feed.tried.wait()
    assert api.asked == 1
    feed.restart()
    assert feed.voided
    api.back = True
    async with asyncio.timeout(5):
        await api.registering.wait()
    feed.restart()  # and in the middle of one: it is begun anew
    api.registering.clear()
    async with asyncio.timeout(5):
        await api.registering.wait()
    assert not task.done()
    task.cancel()
    await asyncio.wait([task])
    journal.close()
