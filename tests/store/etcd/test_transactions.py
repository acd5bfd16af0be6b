"""What comes at the same time is done as one transaction, and each caller is answered as if it were alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from tests.etcd import EtcdCluster, running_etcd

from sourcelair.errors import LairError, OutOfSpace, Unavailable
from sourcelair.store.base import Compare, CompareFailed, Delete, LeaseNotFound, Put
from sourcelair.store.etcd import EtcdStore, cluster, parse_address, together
from sourcelair.store.etcd.store import Fence
from sourcelair.store.etcd.transactions import MAX_TXN_OPS, MOST_BYTES

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdCluster]:
    with running_etcd(tmp_path_factory.mktemp("etcd")) as running:
        yield running


@pytest.fixture
async def store(etcd: EtcdCluster, request: pytest.FixtureRequest) -> AsyncIterator[EtcdStore]:
    opened = EtcdStore(parse_address(etcd.url(f"/{request.node.name}")), "store")
    yield opened
    await opened.close()


@pytest.fixture
def sent(store: EtcdStore, monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Set once a call is on its way; each takes 50 ms longer."""
    sent, call = asyncio.Event(), store._cluster.call

    async def slow(method: object, request: object, **options: bool) -> object:
        sent.set()
        await asyncio.sleep(0.05)
        return await call(method, request, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(store._cluster, "call", slow)
    return sent


async def test_many_writes_are_few_transactions(store: EtcdStore) -> None:
    """As many as etcd takes at once."""
    before = await store.revision()
    revisions = await asyncio.gather(*(store.put(f"/{number}", b"x") for number in range(10 * MAX_TXN_OPS)))
    assert sorted(set(revisions)) == list(range(before + 1, before + 11))
    assert len((await store.list("/")).entries) == 10 * MAX_TXN_OPS


async def test_large_values_are_divided(store: EtcdStore) -> None:
    """What is too much for one request goes in several; one caller may have more than others have together."""
    before = await store.revision()
    value = bytes(MOST_BYTES // 4)
    await asyncio.gather(*(store.put(f"/{number}", value) for number in range(9)))
    assert await store.revision() == before + 3
    assert {entry.value for entry in (await store.list("/")).entries} == {value}


async def test_one_whose_condition_fails_takes_nobody_along(store: EtcdStore) -> None:
    """The others are written; it learns which of its own conditions it was."""
    there = await store.put("/there", b"1")
    results = await asyncio.gather(
        store.put("/a", b"a", expect=0),
        store.transact([Compare("/there", there), Compare("/none", 7)], [Put("/b", b"b")]),
        store.transact([Compare("/c", 0)], [Put("/c", b"c"), Delete("/there")]),
        store.put("/d", b"d", expect=3),
        return_exceptions=True,
    )
    assert [(error.key, error.mod_revision) for error in results if isinstance(error, CompareFailed)] == [
        ("/none", 0), ("/d", 0),
    ]  # fmt: skip
    assert {entry.key: entry.mod_revision for entry in (await store.list("/")).entries} == {
        "/a": results[0], "/c": results[2],
    }  # fmt: skip


async def test_a_lease_that_is_gone_concerns_one(store: EtcdStore) -> None:
    """etcd refuses a transaction as a whole; the others do not notice."""
    lease = await store.grant_lease(60)
    await store.revoke_lease(lease)
    results = await asyncio.gather(
        store.put("/a", b"a"), store.put("/b", b"b", lease=lease), store.put("/c", b"c"), return_exceptions=True
    )
    assert [type(result) for result in results] == [int, LeaseNotFound, int]


async def test_writes_of_one_key_keep_their_order(store: EtcdStore) -> None:
    """Each sees what the one before has written, and no two of them are in one transaction."""
    revisions = await asyncio.gather(*(store.put("/one", b"%d" % number) for number in range(20)))
    assert revisions == sorted(set(revisions))
    entry = await store.get("/one")
    assert entry is not None and (entry.value, entry.version) == (b"19", 20)


async def test_whoever_deletes_learns_whether_it_was_there(store: EtcdStore) -> None:
    """Among others who delete, and others who write."""
    await store.transact([], [Put(f"/{number}", b"x") for number in range(0, 10, 2)])
    found = await asyncio.gather(*(store.delete(f"/{number}") for number in range(10)), store.put("/new", b"x"))
    assert found[:10] == [number % 2 == 0 for number in range(10)]


async def test_who_gave_up_in_time_writes_nothing(store: EtcdStore) -> None:
    """A caller that was cancelled while it waited for its turn."""
    first = asyncio.create_task(store.put("/one", b"1"))
    await asyncio.sleep(0)
    waiting = asyncio.create_task(store.put("/one", b"2"))
    await asyncio.sleep(0)
    waiting.cancel()
    await store.put("/one", b"3")
    entry = await store.get("/one")
    assert entry is not None and (entry.value, entry.version) == (b"3", 2)
    assert first.done() and waiting.cancelled()


async def test_what_was_accepted_is_done_before_it_is_closed(etcd: EtcdCluster, store: EtcdStore) -> None:
    """And whoever comes later hears that it is closed."""
    other = EtcdStore(parse_address(etcd.url("/accepted")), "store")
    tasks = [asyncio.create_task(other.put("/one", b"%d" % number)) for number in range(5)]
    await asyncio.sleep(0)
    await other.close()
    assert all([isinstance(await task, int) for task in tasks])
    with pytest.raises(Unavailable, match="closed"):
        await other.put("/one", b"late")


async def test_behind_a_fence_all_are_refused(etcd: EtcdCluster, store: EtcdStore) -> None:
    """Each with an error of its own, and the owner hears of it once for each transaction."""
    losses = list[LairError]()
    revision = await store.put("/seat", b"mine")
    fenced = EtcdStore(parse_address(etcd.url("/fenced")), "store", Fence(store, "/seat", revision, losses.append))
    await fenced.put("/a", b"1")
    await store.put("/seat", b"another's")
    results = await asyncio.gather(*(fenced.put(f"/{name}", b"2") for name in "abc"), return_exceptions=True)
    assert all(isinstance(result, Unavailable) and "taken over" in result.detail for result in results)
    assert len({id(result) for result in results}) == 3 and len(losses) == 1
    await fenced.close()


async def test_many_reads_are_few_calls(store: EtcdStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each gets what it asked for, and somebody who gives up takes nobody along."""
    await store.transact([], [Put(f"/{number}", b"%d" % number) for number in range(0, MAX_TXN_OPS)])
    calls, call = list[object](), store._cluster.call

    async def counted(method: object, request: object, **options: bool) -> object:
        calls.append(method)
        return await call(method, request, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(store._cluster, "call", counted)
    tasks = [asyncio.create_task(store.get(f"/{number}")) for number in range(2 * MAX_TXN_OPS + 1)]
    await asyncio.sleep(0)
    tasks[7].cancel()
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(found.pop(7), asyncio.CancelledError)
    values = [None if entry is None else entry.value for entry in found if not isinstance(entry, BaseException)]
    wanted = [b"%d" % number for number in range(MAX_TXN_OPS) if number != 7]
    assert values == [*wanted, *[None] * (MAX_TXN_OPS + 1)]
    assert len(calls) == 3


async def test_all_of_them_wait_for_a_member(etcd: EtcdCluster, store: EtcdStore) -> None:
    """It is gone when they come, and they are written once it is back."""
    etcd.members[0].kill()
    late = [asyncio.create_task(store.put(f"/{number}", b"x")) for number in range(3)]
    etcd.members[0].start()
    assert all([isinstance(await task, int) for task in late])


async def test_nobody_waits_for_those_whose_conditions_fail(store: EtcdStore) -> None:
    """However many of them come again and again: whoever goes once more because of them goes first."""
    over = asyncio.Event()

    async def fail(number: int) -> None:
        await asyncio.sleep(0.0007 * number)
        while not over.is_set():
            with pytest.raises(CompareFailed):
                await store.put(f"/{number}", b"", expect=999)

    failing = [asyncio.create_task(fail(number)) for number in range(8)]
    await asyncio.sleep(0.05)
    async with asyncio.timeout(5):
        for _ in range(10):
            await store.put("/mine", b"x")
    over.set()
    await asyncio.gather(*failing)


async def test_what_cannot_be_sent_concerns_one(store: EtcdStore) -> None:
    """The others are not left waiting."""
    bad = asyncio.create_task(store.put("/bad", "text"))  # type: ignore[arg-type]
    async with asyncio.timeout(5):
        assert await store.put("/good", b"x") > 0
        with pytest.raises(TypeError):
            await bad


async def test_who_gave_up_while_others_are_sent_alone_writes_nothing(store: EtcdStore, sent: asyncio.Event) -> None:
    """A group that is refused as a whole goes one by one, but for those who have left."""
    lease = await store.grant_lease(60)
    await store.revoke_lease(lease)
    refused = asyncio.create_task(store.put("/lease", b"", lease=lease))
    leaving = asyncio.create_task(store.put("/late", b"late"))
    await sent.wait()
    leaving.cancel()
    with pytest.raises(LeaseNotFound):
        await refused
    await store.put("/after", b"")
    assert await store.get("/late") is None


async def test_a_condition_alone_waits_for_what_is_on_its_way(store: EtcdStore, sent: asyncio.Event) -> None:
    """Who asks whether a write was done, though nobody waits for its answer any more, asks after it."""
    leaving = asyncio.create_task(store.put("/late", b""))
    await sent.wait()
    leaving.cancel()
    with pytest.raises(CompareFailed):
        await store.transact([Compare("/late", 0)], [])


async def test_nobody_waits_longer_than_the_first(
    etcd: EtcdCluster, store: EtcdStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While etcd is away all are told so after the same time, also those who stand behind others."""
    for module in (cluster, together):
        monkeypatch.setattr(module, "PATIENCE", 0.5)
    await store.put("/one", b"")
    etcd.members[0].kill()
    loop = asyncio.get_running_loop()
    began = loop.time()
    try:
        results = await asyncio.gather(
            *(store.put("/one", b"x") for _ in range(20)), store.put("/two", b"x"), store.get("/one"),
            return_exceptions=True,
        )  # fmt: skip
        assert all(isinstance(result, Unavailable) for result in results)
        assert loop.time() - began < 5
        assert len({id(result.extra) for result in results if isinstance(result, Unavailable)}) == len(results)
    finally:
        etcd.members[0].start()
        etcd.wait()


async def test_it_is_closed_while_others_write(etcd: EtcdCluster) -> None:
    """They are refused from then on, so that there is an end."""
    other = EtcdStore(parse_address(etcd.url("/closing")), "store")

    async def write(number: int) -> None:
        while True:
            await other.put(f"/{number}", b"")

    writing = [asyncio.create_task(write(number)) for number in range(3)]
    await asyncio.sleep(0.05)
    async with asyncio.timeout(5):
        await other.close()
        for task in writing:
            with pytest.raises(Unavailable, match="closed"):
                await task


async def test_what_only_deletes_goes_by_itself(store: EtcdStore) -> None:
    """What is written may be refused for lack of room: then nobody can tell whether a deletion with it was done."""
    await store.transact([], [Put(f"/{name}", b"") for name in "abc"])
    before = await store.revision()
    await asyncio.gather(store.delete("/a"), store.delete("/b"), store.put("/d", b""), store.delete("/c"))
    assert await store.revision() == before + 3


async def test_a_full_etcd_is_read(tmp_path: Path) -> None:
    """It takes no transaction then, not even one that only reads; and who writes is refused, all of them."""
    with running_etcd(tmp_path, 1, "--quota-backend-bytes=1000000") as full:
        store = EtcdStore(parse_address(full.url("/full")), "store")
        await store.put("/kept", b"1")
        with pytest.raises(OutOfSpace):
            for number in range(100):
                await store.put(f"/{number}", bytes(100_000))
        entries = await asyncio.gather(store.get("/kept"), store.get("/0"), store.get("/none"))
        assert [entry is not None for entry in entries] == [True, True, False]
        refused = await asyncio.gather(
            *(store.put(f"/new{number}", b"") for number in range(3)), return_exceptions=True
        )
        assert all(isinstance(one, OutOfSpace) for one in refused)
        await store.close()
