"""Promises that deserve a case of their own, for every implementation."""

from __future__ import annotations

import asyncio

import pytest
from tests.store.conformance.backends import Backend

from sourcelair.errors import HistoryCompacted, InvalidInput, TooLarge, Unavailable
from sourcelair.store.base import Change, Compare, CompareFailed, Delete, LeaseNotFound, Page, Put, Store
from sourcelair.store.limits import MAX_KEY, MAX_VALUE

pytestmark = pytest.mark.anyio


async def take(store: Store, prefix: str, start: int, count: int) -> list[Change]:
    """The next changes of a watch."""
    found: list[Change] = []
    async with asyncio.timeout(20):
        async for change in store.watch(prefix, start):
            found.append(change)
            if len(found) == count:
                break
    return found


async def test_a_hundred_writers_are_answered_with_their_revision(store: Store) -> None:
    """Concurrent writes are all done, in one order, and a watch sees each once. Some may share a revision."""
    start = await store.revision() + 1
    revisions = await asyncio.gather(*(store.put(f"/k/{n:03}", b"%d" % n) for n in range(100)))
    changes = await take(store, "/k/", start, len(set(revisions)))
    assert [(event.key, event.revision) for change in changes for event in change.events] == sorted(
        ((f"/k/{n:03}", revision) for n, revision in enumerate(revisions)), key=lambda found: (found[1], found[0])
    )
    assert [change.revision for change in changes] == sorted(set(revisions))


async def test_of_two_creates_one_wins(store: Store) -> None:
    """`expect=0` lets exactly one writer through; the others learn the winner's revision."""
    results = await asyncio.gather(*(store.put("/one", b"%d" % n, expect=0) for n in range(20)), return_exceptions=True)
    won = [result for result in results if isinstance(result, int)]
    lost = [result for result in results if isinstance(result, CompareFailed)]
    assert len(won) == 1 and len(lost) == 19
    assert {(error.key, error.mod_revision) for error in lost} == {("/one", won[0])}


async def test_a_failed_transaction_leaves_no_trace(store: Store) -> None:
    """Not a key, not a revision, not an event, and its neighbours in the same commit are done."""
    start = await store.revision() + 1
    first, failed, second = await asyncio.gather(
        store.put("/a", b"1"),
        store.transact([Compare("/nothing", 7)], [Put("/a", b"bad"), Put("/b", b"bad"), Delete("/c")]),
        store.put("/c", b"2"),
        return_exceptions=True,
    )
    assert isinstance(failed, CompareFailed) and (failed.key, failed.mod_revision) == ("/nothing", 0)
    assert isinstance(first, int) and isinstance(second, int)
    assert [entry.key for entry in (await store.list("")).entries] == ["/a", "/c"]
    assert [change.revision for change in await take(store, "", start, 2)] == sorted([first, second])


async def test_a_transaction_is_one_revision_for_watchers(store: Store) -> None:
    """All its changes come together, in the order of their keys, and only those under the prefix."""
    await store.put("/in/b", b"old")
    revision = await store.transact([], [Put("/out", b""), Delete("/in/b"), Put("/in/a", b"new"), Delete("/in/none")])
    [change] = await take(store, "/in/", revision, 1)
    assert change.revision == revision
    assert [(event.kind, event.key) for event in change.events] == [("put", "/in/a"), ("delete", "/in/b")]
    assert change.events[1].previous is not None and change.events[1].previous.value == b"old"
    assert change.events[0].previous is None


async def test_a_transaction_that_changes_nothing_costs_no_revision(store: Store) -> None:
    """Deleting what is absent, or doing nothing at all, answers with the revision as it stands."""
    revision = await store.put("/a", b"")
    assert await store.transact([Compare("/a", revision)], [Delete("/none")]) == revision
    assert await store.transact([], []) == revision
    assert await store.delete("/none") is False
    assert await store.revision() == revision


async def test_who_waits_is_woken_by_the_write(store: Store) -> None:
    """A watcher that waits gets the change that comes, and nothing of other prefixes."""
    start = await store.revision() + 1
    waiting = asyncio.create_task(take(store, "/mine/", start, 2))
    await asyncio.sleep(0)
    await store.put("/other", b"")
    first = await store.put("/mine/1", b"")
    await store.put("/other", b"")
    second = await store.put("/mine/2", b"")
    assert [change.revision for change in await waiting] == [first, second]


async def test_replay_meets_live_without_gap_or_double(store: Store) -> None:
    """Watches that begin at any revision while others write give every later change once."""
    start, written = await store.revision() + 1, set[int]()

    async def write(writer: int) -> None:
        for number in range(100):
            written.add(await store.put(f"/k/{writer}", b"%d" % number))

    async def write_all() -> None:
        await asyncio.gather(*(write(n) for n in range(3)))
        written.add(await store.put("/k/last", b""))

    async def watch(skip: int) -> list[int]:
        found = list[int]()
        async with asyncio.timeout(20):
            async for change in store.watch("/k/", start + skip):
                found.append(change.revision)
                if change.events[-1].key == "/k/last":
                    break
        return found

    skips = range(0, 100, 20)
    _, *results = await asyncio.gather(write_all(), *(watch(skip) for skip in skips))
    for skip, revisions in zip(skips, results, strict=True):
        assert revisions == sorted(revision for revision in written if revision >= start + skip)


async def test_a_slow_reader_loses_nothing(store: Store) -> None:
    """However far a watcher falls behind, it gets every change."""
    start = await store.revision() + 1
    watch = store.watch("/k", start)
    await store.put("/k", b"0")
    assert (await anext(watch)).revision == start
    for batch in range(30):
        await asyncio.gather(*(store.put("/k", b"%d" % (batch * 100 + n)) for n in range(100)))
    async with asyncio.timeout(20):
        assert [(await anext(watch)).revision for _ in range(3000)] == list(range(start + 1, start + 3001))


async def test_history_survives_reopening(one_loop: None, backend: Backend) -> None:
    """A watch from an old revision, and a list as of then, are the same after a restart."""
    store = await backend.open()
    start = await store.revision() + 1
    await store.put("/a", b"1")
    old = await store.put("/b", b"1")
    await store.transact([], [Put("/a", b"2"), Delete("/b")])
    before = await take(store, "/", start, 3), await store.list("/", revision=old)
    await store.close()
    store = await backend.open()
    assert (await take(store, "/", start, 3), await store.list("/", revision=old)) == before
    await store.close()


async def test_pages_fit_together_while_others_write(store: Store) -> None:
    """Pages read at the first one's revision show one state."""
    await asyncio.gather(*(store.put(f"/k/{n:02}", b"old") for n in range(10)))
    page = await store.list("/k/", limit=4)
    await asyncio.gather(*(store.put(f"/k/{n:02}", b"new") for n in range(5, 15)), store.delete("/k/09"))
    entries = list(page.entries)
    while page.more:
        page = await store.list("/k/", revision=page.revision, start_after=entries[-1].key, limit=4)
        entries += page.entries
    assert [entry.key for entry in entries] == [f"/k/{n:02}" for n in range(10)]
    assert {entry.value for entry in entries} == {b"old"}


async def test_compaction_keeps_what_stands_and_what_came_before_it(store: Store) -> None:
    """After it, the oldest revision can be listed, and the first event knows what stood before."""
    await store.put("/a", b"1")
    kept = await store.put("/a", b"2")
    after = await store.put("/a", b"3")
    await store.compact(kept)
    assert [entry.value for entry in (await store.list("", revision=kept)).entries] == [b"2"]
    [change] = await take(store, "", after, 1)
    assert change.events[0].previous is not None and change.events[0].previous.value == b"2"
    with pytest.raises(HistoryCompacted):
        await store.list("", revision=kept - 1)
    with pytest.raises(HistoryCompacted):
        await take(store, "", kept, 1)
    with pytest.raises(InvalidInput):
        await store.compact(after + 1)


async def test_a_lease_takes_its_keys_with_it(backend: Backend, store: Store) -> None:
    """When it runs out its keys go in one revision, which watches see; a renewal puts that off."""
    lease = await store.grant_lease(10 * backend.second)
    await store.put("/node/a", b"", lease=lease)
    await store.put("/node/b", b"", lease=lease)
    revision = await store.put("/stays", b"")
    await backend.pass_time(store, 6 * backend.second)
    await store.renew_lease(lease)
    await backend.pass_time(store, 6 * backend.second)
    assert await store.get("/node/a")
    await backend.pass_time(store, 5 * backend.second)
    [change] = await take(store, "", revision + 1, 1)
    assert [(event.kind, event.key) for event in change.events] == [("delete", "/node/a"), ("delete", "/node/b")]
    assert [entry.key for entry in (await store.list("")).entries] == ["/stays"]
    with pytest.raises(LeaseNotFound):
        await store.renew_lease(lease)
    with pytest.raises(LeaseNotFound):
        await store.put("/node/a", b"", lease=lease)


async def test_a_key_belongs_to_the_lease_of_its_last_write(store: Store) -> None:
    """A write without a lease, or with another, takes the key out of the first."""
    first, second = await store.grant_lease(10), await store.grant_lease(10)
    await store.put("/free", b"", lease=first)
    await store.put("/free", b"")
    await store.put("/moved", b"", lease=first)
    await store.put("/moved", b"", lease=second)
    await store.revoke_lease(first)
    assert [entry.key for entry in (await store.list("")).entries] == ["/free", "/moved"]
    await store.revoke_lease(second)
    await store.revoke_lease(second)
    assert [entry.key for entry in (await store.list("")).entries] == ["/free"]


@pytest.mark.parametrize("key", ["", "\ud800", "a\udfff"])
async def test_refuses_keys_that_are_none(store: Store, key: str) -> None:
    """Empty text and lone surrogates are InvalidInput, whatever is done with them."""
    for attempt in (store.get(key), store.put(key, b""), store.delete(key), store.transact([Compare(key, 0)], [])):
        with pytest.raises(InvalidInput):
            await attempt


async def test_refuses_what_is_too_large_or_twice(store: Store) -> None:
    """Nothing of it is written."""
    revision = await store.revision()
    with pytest.raises(TooLarge):
        await store.put("k" * (MAX_KEY + 1), b"")
    with pytest.raises(TooLarge):
        await store.put("é" * MAX_KEY, b"")
    with pytest.raises(TooLarge):
        await store.put("/k", b"x" * (MAX_VALUE + 1))
    with pytest.raises(InvalidInput):
        await store.transact([], [Put("/k", b""), Delete("/k")])
    for ttl in (0, -1, float("nan"), float("inf")):
        with pytest.raises(InvalidInput):
            await store.grant_lease(ttl)
    with pytest.raises(InvalidInput):
        await store.list("", limit=-1)
    assert await store.revision() == revision
    await store.put("k" * MAX_KEY, b"x" * MAX_VALUE)


@pytest.mark.parametrize("number", [-1, 0, 1 << 62, 1 << 70])
async def test_numbers_of_any_size_get_an_answer(store: Store, number: int) -> None:
    """Revisions and leases that never were are refused as such, and crash nothing."""
    await store.put("/k", b"")
    with pytest.raises(LeaseNotFound):
        await store.renew_lease(number)
    with pytest.raises(LeaseNotFound):
        await store.put("/k", b"", lease=number)
    await store.revoke_lease(number)
    if number > 0:
        with pytest.raises(InvalidInput):
            await store.list("", revision=number)
        with pytest.raises(InvalidInput):
            await store.compact(number)
    else:
        await store.compact(number)
    assert len((await store.list("", limit=max(number, 0))).entries) == 1


async def test_a_range_with_nothing_in_it_is_still_of_a_revision(store: Store) -> None:
    """One that is yet to come, or no longer kept, is refused, wherever the list would begin."""
    first = await store.put("/a", b"1")
    last = await store.put("/a", b"2")
    await store.compact(last)
    assert await store.list("/a", start_after="/b", revision=last) == Page((), last, more=False)
    with pytest.raises(InvalidInput):
        await store.list("/a", start_after="/b", revision=last + 1)
    with pytest.raises(HistoryCompacted):
        await store.list("/a", start_after="/b", revision=first)


async def test_a_closed_store_says_so(one_loop: None, backend: Backend) -> None:
    """What was accepted is finished, watches end, later calls are refused, closing again is no error."""
    store = await backend.open()
    watch = asyncio.create_task(take(store, "/never", await store.revision() + 1, 1))
    await asyncio.sleep(0)
    writes = [asyncio.create_task(store.put(f"/{n}", b"")) for n in range(50)]
    await asyncio.sleep(0)
    await store.close()
    await store.close()
    await asyncio.gather(*writes)
    assert await watch == []
    for attempt in (store.get("/0"), store.put("/0", b""), store.list(""), store.revision()):
        with pytest.raises(Unavailable):
            await attempt
    store = await backend.open()
    assert len((await store.list("")).entries) == 50
    await store.close()


async def test_a_caller_that_gives_up_harms_nobody(store: Store) -> None:
    """Cancelled writes are done or not, whole; the store goes on."""
    writes = [asyncio.create_task(store.transact([], [Put(f"/{n}/a", b""), Put(f"/{n}/b", b"")])) for n in range(50)]
    await asyncio.sleep(0)
    for write in writes[::2]:
        write.cancel()
    await asyncio.gather(*writes, return_exceptions=True)
    await store.put("/end", b"")
    keys = {entry.key for entry in (await store.list("")).entries}
    for n in range(50):
        assert (f"/{n}/a" in keys) == (f"/{n}/b" in keys)
        assert n % 2 == 0 or f"/{n}/a" in keys
