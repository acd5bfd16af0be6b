"""Copying between files and etcd, in all directions: what arrives, what is refused, and what starts on it."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest

from sourcelair.errors import Conflict, HistoryCompacted, InvalidInput, LairError, NotFound
from sourcelair.store import copying
from sourcelair.store.base import Compare, CompareFailed, Put, Store
from sourcelair.store.copying import Outcome, copy
from sourcelair.store.marks import continued
from sourcelair.store.places import Place, place_of
from sourcelair.store.sqlite.files import open_database
from sourcelair.store.sqlite.view import SqliteView

pytestmark = pytest.mark.anyio

NAMES = ("ceryx", "servers")

NewPlace = Callable[[str], Place]

WAYS = [("sqlite", "etcd"), ("etcd", "sqlite"), ("sqlite", "sqlite"), ("etcd", "etcd")]


@asynccontextmanager
async def system(place: Place) -> AsyncIterator[dict[str, Store]]:
    """The stores as a system opens them: for itself alone, and as copies where they are."""
    async with place.writing(NAMES) as stores:
        yield await continued(stores, place)


async def fill(place: Place, number: int = 1200) -> None:
    """Write what a system would, in many revisions."""
    async with system(place) as stores:
        for at in range(0, number, 100):
            await stores["ceryx"].transact([], [Put(f"/routes/{n}", b"%d" % n) for n in range(at, at + 100)])
        await stores["servers"].put("/servers/ann/blog", b"x" * (1 << 20))
        await stores["servers"].put("/servers/ann/shop", b"y" * (1 << 20))
        await stores["servers"].put("/servers/žan/ünï", b"\0\xff")


async def content(place: Place) -> dict[str, dict[str, bytes]]:
    """All that services would find there."""
    async with system(place) as stores:
        found = {name: (await store.list("")).entries for name, store in stores.items()}
    return {name: {one.key: one.value for one in some if one.key != "/copy"} for name, some in found.items()}


async def copied(source: Place, target: Place, **options: Any) -> Outcome:
    return await copy(source, target, NAMES, **{"follow": False, "say": lambda _: None, **options})


@pytest.mark.parametrize(("one", "other"), WAYS)
async def test_all_of_it_arrives(new_place: NewPlace, one: str, other: str) -> None:
    """Keys and values of every store; what is there already is not written again."""
    source, target = new_place(one), new_place(other)
    await fill(source)
    outcome = await copied(source, target)
    assert outcome.whole
    assert (outcome.stores["ceryx"].keys, outcome.stores["ceryx"].written) == (1200, 1200)
    assert await content(target) == await content(source)
    again = await copied(source, target)
    assert again.whole and [done.written + done.removed for done in again.stores.values()] == [0, 0]


@pytest.mark.parametrize(("one", "other"), WAYS)
async def test_revisions_go_on(new_place: NewPlace, one: str, other: str) -> None:
    """Each key has a newer revision than any of the source's, and what was before is history that is gone."""
    source, target = new_place(one), new_place(other)
    await fill(source)
    async with system(source) as stores:
        for _ in range(300):
            before = await stores["ceryx"].put("/routes/1", b"new")
        old = await stores["ceryx"].get("/routes/1")
    await copied(source, target)
    async with system(target) as stores:
        store = stores["ceryx"]
        page = await store.list("/routes/")
        assert min(entry.create_revision for entry in page.entries) > before
        with pytest.raises(HistoryCompacted):
            await store.list("/routes/", revision=before)
        with pytest.raises(HistoryCompacted):
            await anext(aiter(store.watch("", before + 1)))
        assert old is not None
        with pytest.raises(CompareFailed) as refused:
            await store.put("/routes/1", b"late", expect=old.mod_revision)
        now = await store.get("/routes/1")
        assert now is not None and refused.value.mod_revision == now.mod_revision
        revision = await store.transact([Compare("/routes/1", now.mod_revision)], [Put("/routes/1", b"newer")])
        async with aclosing(store.watch("", page.revision + 1)) as changes:  # type: ignore[type-var]
            change = await anext(changes)
        assert change.revision == revision
        assert [event.key for event in change.events] == ["/routes/1"]


async def test_there_and_back_again(new_place: NewPlace) -> None:
    """Twice; each time the revisions go on, and what the other side held is replaced as an older state of the same."""
    files, etcd = new_place("sqlite"), new_place("etcd")
    await fill(files)
    last = 0
    for number, (source, target) in enumerate([(files, etcd), (etcd, files)] * 2):
        async with system(source) as stores:
            revision = await stores["ceryx"].put("/routes/1", b"%d" % number)
            await stores["ceryx"].delete(f"/routes/{2 + number}")
        assert revision > last
        last = revision
        assert (await copied(source, target)).whole
        assert await content(target) == await content(source)
    async with system(files) as stores:
        assert await stores["ceryx"].revision() > last


async def test_what_is_no_older_state_is_not_overwritten(new_place: NewPlace) -> None:
    """Neither another installation's stores, nor a copy on which a system has worked since."""
    source, other = new_place("sqlite"), new_place("etcd")
    await fill(source, 100)
    await fill(other, 100)
    before = await content(other)
    with pytest.raises(Conflict, match="something else"):
        await copied(source, other)
    assert await content(other) == before
    target = new_place("etcd")
    await copied(source, target)
    async with system(target) as stores:
        await stores["servers"].put("/servers/ann/new", b"")
    with pytest.raises(Conflict, match="something else"):
        await copied(source, target)


async def test_the_original_that_was_written_to_since_is_not_overwritten(new_place: NewPlace) -> None:
    """The way back is free only while nobody has gone on in the original."""
    source, target = new_place("sqlite"), new_place("etcd")
    await fill(source, 100)
    await copied(source, target)
    async with system(source) as stores:
        await stores["ceryx"].delete("/routes/1")
    with pytest.raises(Conflict, match="something else"):
        await copied(target, source)


@pytest.mark.parametrize("kind", ["sqlite", "etcd"])
async def test_a_copy_that_broke_off(new_place: NewPlace, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing starts on it, nothing is copied from it; done again, it is whole."""
    source, target = new_place("sqlite"), new_place(kind)
    await fill(source)
    write, left = copying._Copy._write, [3]

    async def breaks(self: copying._Copy, operations: Any) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise LairError("The machine went down.")
        await write(self, operations)

    monkeypatch.setattr(copying, "MOST_OPERATIONS", 100)
    with monkeypatch.context() as patch:
        patch.setattr(copying._Copy, "_write", breaks)
        with pytest.raises(LairError, match="went down"):
            await copied(source, target)
    with pytest.raises(Conflict, match="was not finished"):
        await content(target)
    with pytest.raises(Conflict, match="was not finished"):
        await copied(target, new_place("sqlite"))
    again = await copied(source, target)
    assert again.whole and 0 < again.stores["ceryx"].written < 1200
    assert await content(target) == await content(source)


@pytest.mark.parametrize(("one", "other"), WAYS)
async def test_a_copy_of_a_running_system(new_place: NewPlace, one: str, other: str) -> None:
    """It holds what was there, and nothing starts on it; another one brings the rest."""
    source, target = new_place(one), new_place(other)
    await fill(source, 100)
    async with system(source) as stores:
        assert not (await copied(source, target)).whole
        with pytest.raises(Conflict, match="went on in the original"):
            await content(target)
        await stores["ceryx"].put("/routes/late", b"late")
    assert (await copied(source, target)).whole
    assert (await content(target))["ceryx"]["/routes/late"] == b"late"


async def test_a_copy_of_a_running_system_is_a_backup(new_place: NewPlace) -> None:
    """Copied on, to where nothing is, it is whole."""
    source, backup, restored = new_place("sqlite"), new_place("sqlite"), new_place("etcd")
    await fill(source, 100)
    async with system(source):
        await copied(source, backup)
    before = await content(source)
    assert (await copied(backup, restored)).whole
    assert await content(restored) == before


@pytest.mark.parametrize(("one", "other"), WAYS)
async def test_following_a_system_until_it_ends(new_place: NewPlace, one: str, other: str) -> None:
    """It writes all the while; its last write is in the copy, and nothing that it deleted."""
    source, target = new_place(one), new_place(other)
    await fill(source, 200)
    following, written = asyncio.Event(), 0
    async with asyncio.TaskGroup() as tasks:
        async with system(source) as stores:
            work = tasks.create_task(
                copied(source, target, follow=True, say=lambda text: "Following" in text and following.set())
            )
            await following.wait()
            while written < 200:
                await stores["ceryx"].put(f"/routes/{written % 50}", b"again %d" % written)
                await stores["ceryx"].delete(f"/routes/{100 + written % 50}")
                written += 1
                await asyncio.sleep(0.005)
        outcome = await work
    assert outcome.whole
    assert await content(target) == await content(source)
    assert (await content(target))["ceryx"]["/routes/49"] == b"again 199"


@pytest.mark.parametrize("kind", ["sqlite", "etcd"])
async def test_nobody_works_at_the_target(new_place: NewPlace, kind: str) -> None:
    source, target = new_place("sqlite"), new_place(kind)
    await fill(source, 100)
    async with system(target):
        with pytest.raises(Conflict, match="in use"):
            await copied(source, target)


async def test_what_somebody_is_there_for_is_not_copied(new_place: NewPlace) -> None:
    """A key with a lease says that its writer is alive; of a copy that would not be true."""
    source, target = new_place("sqlite"), new_place("etcd")
    async with system(source) as stores:
        await stores["ceryx"].put("/routes/1", b"")
        await stores["ceryx"].put("/alive", b"", lease=await stores["ceryx"].grant_lease(60))
    await copied(source, target)
    assert set((await content(target))["ceryx"]) == {"/routes/1"}


def test_files_of_others_are_no_stores(tmp_path: Path) -> None:
    """Another program's database, and one of another version of ours."""
    with closing(sqlite3.connect(tmp_path / "theirs.db")) as connection:
        connection.execute("CREATE TABLE theirs (a)")
    with pytest.raises(LairError, match="no store of SourceLair"):
        SqliteView(tmp_path / "theirs.db")
    with closing(open_database(tmp_path / "ours.db")) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(LairError, match="schema 99"):
        SqliteView(tmp_path / "ours.db")
    (tmp_path / "text.db").write_text("no database at all, though it is long enough to be taken for one" * 10)
    with pytest.raises(LairError, match="damaged"):
        SqliteView(tmp_path / "text.db")


async def test_bad_places(new_place: NewPlace) -> None:
    """Each says what is wrong, and nothing is made."""
    source = new_place("sqlite")
    with pytest.raises(NotFound, match=r"no store .*ceryx\.db"):
        await copied(source, new_place("etcd"))
    with pytest.raises(NotFound, match="has no stores"):
        await copied(new_place("etcd"), new_place("etcd"))
    with pytest.raises(InvalidInput, match="itself"):
        await copied(source, place_of(f"{source}/../{str(source).rpartition('/')[2]}"))
    with pytest.raises(InvalidInput, match="redis:// is no kind of store"):
        place_of("redis://127.0.0.1/0")
