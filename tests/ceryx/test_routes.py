"""Writing routes: what was written lately is remembered, and never believed against the store."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from sourcelair.ceryx import routes as module
from sourcelair.ceryx.routes import Routes
from sourcelair.client.ceryx import Route, RouteWrite
from sourcelair.errors import Conflict, PreconditionFailed, Unavailable
from sourcelair.store.base import Compare, Entry, Operation, Page, Store
from sourcelair.store.sqlite import open_sqlite

pytestmark = pytest.mark.anyio

BLOG, SHOP = "blog.example.com", "shop.example.com"


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = await open_sqlite(tmp_path / "store.db")
    try:
        yield opened
    finally:
        await opened.close()


def put(source: str, port: int = 1, *, expect: int | None = None, manager: str | None = None) -> RouteWrite:
    route = Route(source=source, target=f"http://127.0.0.1:{port}", managed_by=manager)
    return RouteWrite(source=source, route=route, expect=expect)


def gone(source: str, *, expect: int | None = None) -> RouteWrite:
    return RouteWrite(source=source, route=None, expect=expect)


async def write(routes: Routes, *writes: RouteWrite, manager: str | None = None) -> int:
    return (await routes.write(writes, manager, None)).revision


class Counting:
    """A store that counts what is read."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.reads = 0

    def __getattr__(self, name: str) -> object:
        if name == "get":
            self.reads += 1
        return getattr(self._store, name)


async def test_what_was_written_here_is_not_read_again(store: Store) -> None:
    counting = Counting(store)
    routes = Routes(counting)  # type: ignore[arg-type] # by way of __getattr__
    revision = await write(routes, put(BLOG), put(SHOP))
    assert counting.reads == 2
    revision = await write(routes, put(BLOG, 2, expect=revision))
    assert counting.reads == 2
    await write(routes, gone(BLOG, expect=revision))
    assert counting.reads == 2
    await write(routes, put(BLOG, 3, expect=0))
    assert counting.reads == 3
    assert routes.count == 2


async def test_nothing_is_refused_and_nothing_overwritten_on_the_word_of_a_memory(store: Store) -> None:
    routes, other = Routes(store), Routes(store)
    first = await write(routes, put(BLOG))
    second = await write(other, put(BLOG, 2))
    with pytest.raises(PreconditionFailed) as raised:
        await write(routes, put(BLOG, 3, expect=first))
    assert raised.value.extra["revision"] == second
    third = await write(routes, put(BLOG, 3, expect=second))
    await write(other, gone(BLOG, expect=third))
    with pytest.raises(PreconditionFailed, match="does not exist"):
        await write(routes, put(BLOG, 4, expect=third))
    await write(other, put(BLOG, 5, manager="api"), manager="api")
    with pytest.raises(Conflict, match="managed by api"):
        await write(routes, put(BLOG, 6))


async def test_another_manager_between_two_writes_is_found_out(store: Store) -> None:
    routes, other = Routes(store), Routes(store)
    await write(routes, put(BLOG, manager="api"), manager="api")
    await write(other, gone(BLOG), manager="api")
    await write(other, put(BLOG, manager="shop"), manager="shop")
    with pytest.raises(Conflict, match="managed by shop"):
        await write(routes, put(BLOG, 2, manager="api"), manager="api")


async def test_what_is_taken_back_is_not_remembered(store: Store) -> None:
    routes = Routes(store)
    revision = await write(routes, put(BLOG))
    assert await routes.take_back([BLOG], revision)
    await write(routes, put(BLOG, expect=0))
    assert routes.count == 1


async def test_the_memory_is_bounded(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_REMEMBERED", 3)
    counting = Counting(store)
    routes = Routes(counting)  # type: ignore[arg-type] # by way of __getattr__
    sources: Sequence[str] = [f"a{number}.example.com" for number in range(5)]
    await write(routes, *(put(source) for source in sources))
    counting.reads = 0
    await write(routes, *(put(source, 2) for source in sources[2:]))
    assert counting.reads == 0
    await write(routes, put(sources[1], 2))
    assert counting.reads == 1


class Unclear:
    """A store whose writes are done or not, while their answers get lost."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.lands: bool | None = None
        self.reads_fail = False

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    async def get(self, key: str) -> Entry | None:
        if self.reads_fail:
            raise Unavailable("It does not answer.")
        return await self._store.get(key)

    async def transact(self, compares: Sequence[Compare], operations: Sequence[Operation]) -> int:
        lands, self.lands = self.lands, None
        if lands is None:
            return await self._store.transact(compares, operations)
        if lands:
            await self._store.transact(compares, operations)
        raise Unavailable("The answer is lost.")


@pytest.mark.parametrize("lands", [True, False])
async def test_a_write_whose_answer_never_came_is_counted_once_it_is_known(store: Store, lands: bool) -> None:
    """Routes that were made, deleted and taken back: the number is that of a new start."""
    unclear = Unclear(store)
    routes = Routes(unclear)  # type: ignore[arg-type] # by way of __getattr__
    await write(routes, put("old.example.com"), put("older.example.com"))

    async def count() -> int:
        await write(routes, put("old.example.com", 2))
        again = Routes(store)
        await again.load()
        assert routes.count == again.count
        return routes.count

    unclear.lands = lands
    with pytest.raises(Unavailable):
        await write(routes, put(BLOG), put(SHOP), put("old.example.com", 3))
    unclear.reads_fail = True
    with pytest.raises(Unavailable):
        await write(routes, put("new.example.com"))
    unclear.reads_fail = False
    assert await count() == (4 if lands else 2)
    await write(routes, put(BLOG), put(SHOP))
    unclear.lands = lands
    with pytest.raises(Unavailable):
        await write(routes, gone(BLOG), gone("nothing.example.com"))
    assert await count() == (3 if lands else 4)
    await write(routes, gone(BLOG))
    revision = await write(routes, put(BLOG))
    unclear.lands = lands
    with pytest.raises(Unavailable):
        await routes.take_back([BLOG], revision)
    assert await count() == (3 if lands else 4)


class Forgetful:
    """A store whose history is forgotten, by others, between the first two pages of a list."""

    page_size = 2

    def __init__(self, store: Store) -> None:
        self._store = store
        self.lists = 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    async def list(self, prefix: str, **options: Any) -> Page:
        self.lists += 1
        if self.lists == 2:
            await self._store.put("/other", b"")
            await self._store.compact(await self._store.revision())
        return await self._store.list(prefix, **options)


async def test_routes_are_counted_though_history_is_forgotten_meanwhile(store: Store) -> None:
    """It begins again; a start must not fail for that."""
    await write(Routes(store), *(put(f"a{number}.example.com") for number in range(5)))
    forgetful = Forgetful(store)
    routes = Routes(forgetful)  # type: ignore[arg-type] # by way of __getattr__
    await routes.load()
    assert routes.count == 5 and forgetful.lists == 2 + 3
