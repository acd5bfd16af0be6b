"""A page costs what it gives, however much lies before it and after it."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sourcelair.store.base import Put
from sourcelair.store.sqlite import open_sqlite
from sourcelair.store.sqlite.reader import _LIST, _LIST_AS_OF

pytestmark = pytest.mark.anyio

KEYS = 3000


@pytest.fixture
async def connection(tmp_path: Path) -> AsyncIterator[sqlite3.Connection]:
    """A store's tables, whose keys were all written twice."""
    path = tmp_path / "store.db"
    store = await open_sqlite(path)
    for _ in range(2):
        await store.transact([], [Put(f"/k/{number:06}", b"x") for number in range(KEYS)])
    await store.close()
    connection = sqlite3.connect(path)
    yield connection
    connection.close()


def steps(connection: sqlite3.Connection, query: str, first: str) -> int:
    """Count what SQLite does for a page: instructions of its virtual machine."""
    count = 0

    def step() -> int:
        nonlocal count
        count += 1
        return 0

    values = {"first": first, "end": "/k0", "revision": 2, "limit": 100}
    connection.set_progress_handler(step, 1)
    rows = connection.execute(query, values).fetchall()
    connection.set_progress_handler(None, 0)
    assert len(rows) == 100
    return count


@pytest.mark.parametrize("query", [_LIST, _LIST_AS_OF], ids=["now", "as of then"])
async def test_every_page_costs_the_same(connection: sqlite3.Connection, query: str) -> None:
    """The first, one in the midst, and the last: nothing is walked through, sorted or put aside."""
    costs = [steps(connection, query, f"/k/{KEYS * part // 10:06}\0") for part in (0, 5, 9)]
    assert max(costs) < 100 * 100
    assert max(costs) <= 1.1 * min(costs)
