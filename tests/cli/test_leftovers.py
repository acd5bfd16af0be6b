"""Stopping project servers at the end: whoever waits is told that they need not."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from sourcelair.cli.system import leftovers
from sourcelair.servers.drivers.base import Driver, Found

pytestmark = pytest.mark.anyio


class Stubborn:
    """A driver of one instance that ends only when it is killed."""

    async def find_all(self) -> list[Found]:
        return [cast(Found, object())]

    async def stop(self, _: Found, grace: float) -> None:
        if grace:
            await self.killed.wait()
        self.killed.set()

    def __init__(self) -> None:
        self.killed = asyncio.Event()


async def stop(driver: Any, *arguments: Any) -> int:
    async with asyncio.timeout(10):
        return await leftovers.stop_instances(cast(Driver, driver), 300, *arguments)


async def test_what_takes_long_is_told_and_may_be_hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leftovers, "A_MOMENT", 0.01)
    hurry, told = asyncio.Event(), list[None]()

    def late() -> None:
        told.append(None)
        hurry.set()

    assert await stop(Stubborn(), hurry, late) == 1
    assert told == [None]


async def test_what_ends_at_once_is_not_told() -> None:
    driver, told = Stubborn(), list[None]()
    driver.killed.set()
    assert await stop(driver, None, lambda: told.append(None)) == 1
    assert told == []
