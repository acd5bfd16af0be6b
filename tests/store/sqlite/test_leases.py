"""Leases of the embedded store: their timer, a full disk, a restart."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from sourcelair.errors import OutOfSpace
from sourcelair.store.sqlite import leases, open_sqlite

pytestmark = pytest.mark.anyio


async def test_leases_run_out_by_themselves(tmp_path: Path) -> None:
    """Nobody has to ask: a watcher sees the key go when the time is over."""
    store = await open_sqlite(tmp_path / "store.db")
    revision = await store.put("/node", b"", lease=await store.grant_lease(0.05))
    late = await store.grant_lease(30)
    await store.put("/late", b"", lease=late)
    async with asyncio.timeout(10):
        change = await anext(store.watch("/node", revision + 1))
    assert [event.kind for event in change.events] == ["delete"]
    await store.renew_lease(late)
    await store.close()


async def test_a_restart_gives_a_lease_its_whole_time(tmp_path: Path) -> None:
    """Never less than that: nobody could renew it meanwhile."""
    now = 100.0
    path = tmp_path / "store.db"
    store = await open_sqlite(path, clock=lambda: now)
    lease = await store.grant_lease(10)
    await store.put("/node", b"", lease=lease)
    await store.close()
    now = 0.0  # a clock may begin anew with the process
    store = await open_sqlite(path, clock=lambda: now)
    now = 9.9
    await store.expire_leases()
    assert await store.get("/node")
    now = 10.0
    await store.expire_leases()
    assert await store.get("/node") is None
    await store.close()
    store = await open_sqlite(path, clock=lambda: now)
    assert await store.grant_lease(10) > lease, "a number is never used twice"
    await store.close()


async def test_a_lease_that_could_not_be_ended_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk delays its end; it can't be renewed meanwhile, and goes as soon as there is space."""
    monkeypatch.setattr(leases, "RETRY_SECONDS", 0.01)
    failures = 3
    store = await open_sqlite(tmp_path / "store.db")
    end = store._leases._end

    async def failing(lease: int) -> None:
        nonlocal failures
        if failures:
            failures -= 1
            raise OutOfSpace("full")
        await end(lease)

    store._leases._end = failing
    revision = await store.put("/node", b"", lease=await store.grant_lease(0.01))
    async with asyncio.timeout(10):
        await anext(store.watch("/node", revision + 1))
    assert failures == 0
    await store.close()
