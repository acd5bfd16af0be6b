"""A member is cut off, from its clients or from the others: calls go on with another, and nothing is done twice."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from tests.etcd import EtcdCluster, Member, control, running_etcd
from tests.wires import State, Wire, wires

from sourcelair.errors import LairError, Unavailable
from sourcelair.store.base import CompareFailed, Entry, Store
from sourcelair.store.etcd import EtcdStore, cluster, parse_address

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]

COUNTERS, WRITERS = 4, 8


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdCluster]:
    with running_etcd(tmp_path_factory.mktemp("etcd"), 3, wired=True) as running:
        yield running


def by_wire(running: EtcdCluster, wire: Wire, prefix: str) -> EtcdStore:
    """Return a store that reaches the first member by a wire, and the others as they are."""
    address = parse_address(running.url(prefix))
    return EtcdStore(replace(address, endpoints=(f"127.0.0.1:{wire.port}", *address.endpoints[1:])), "store")


@pytest.fixture
def wire(etcd: EtcdCluster) -> Iterator[Wire]:
    with wires(etcd.members[0].client) as laid:
        yield laid[0]


class Following:
    """A watch in the background, and the values that it gave."""

    def __init__(self, store: Store, prefix: str, revision: int) -> None:
        self.entries = list[Entry]()
        self._came = asyncio.Condition()
        self._task = asyncio.create_task(self._follow(store.watch(prefix, revision)))

    async def _follow(self, changes: object) -> None:
        async for change in changes:  # type: ignore[attr-defined]
            async with self._came:
                self.entries += [event.entry for event in change.events if event.entry is not None]
                self._came.notify_all()

    @property
    def values(self) -> list[bytes]:
        return [entry.value for entry in self.entries]

    async def until(self, value: bytes) -> None:
        async with asyncio.timeout(30), self._came:
            await self._came.wait_for(lambda: value in self.values)

    async def end(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


@pytest.mark.parametrize("state", [State.SILENT, State.BROKEN, State.MUTE])
async def test_a_client_that_is_cut_off_from_a_member_goes_on_with_another(
    etcd: EtcdCluster, wire: Wire, state: State
) -> None:
    """It reads and writes; and its watch, which was on that member, misses nothing."""
    store = by_wire(etcd, wire, f"/client/{state.name}")
    revision = await store.put("/a", b"0")
    following = Following(store, "/", revision)
    await following.until(b"0")
    wire.set(state)
    began, unclear = time.monotonic(), 0
    for number in range(1, 21):
        while True:
            try:
                await store.put(f"/{number}", b"%d" % number)
                break
            except Unavailable:
                unclear += 1
    assert unclear <= 1 and time.monotonic() - began < cluster.PATIENCE
    entry = await store.get("/20")
    assert entry is not None
    await following.until(b"20")
    assert sorted({int(value) for value in following.values}) == list(range(21))
    await following.end()
    wire.set(State.WHOLE)
    await store.close()


async def test_a_write_whose_answer_is_held_back_was_done_once(
    etcd: EtcdCluster, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its writer is told that nobody knows; it is not sent again, and a read of another member shows it."""
    monkeypatch.setattr(cluster, "ATTEMPT", 0.5)
    store = by_wire(etcd, wire, "/mute")
    await store.put("/a", b"0")
    wire.set(State.MUTE)
    with pytest.raises(Unavailable, match="broke off"):
        await store.put("/a", b"1")
    entry = await store.get("/a")
    assert entry is not None and (entry.value, entry.version) == (b"1", 2)
    wire.set(State.WHOLE)
    await store.close()


async def test_a_write_that_never_arrived_may_still_come_late(
    etcd: EtcdCluster, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then its condition holds no more: what was written meanwhile stays."""
    monkeypatch.setattr(cluster, "ATTEMPT", 0.5)
    store = by_wire(etcd, wire, "/late")
    revision = await store.put("/a", b"0")
    wire.set(State.SILENT)
    with pytest.raises(Unavailable, match="broke off"):
        await store.put("/a", b"late", expect=revision)
    await store.put("/a", b"1", expect=revision)
    wire.set(State.WHOLE)
    await store.put("/b", b"")
    entry = await store.get("/a")
    assert entry is not None and (entry.value, entry.version) == (b"1", 2)
    await store.close()


async def count(store: Store, dice: random.Random, over: asyncio.Event) -> list[int]:
    """Add one to counters again and again, each time under the condition that nobody else did; return how often.

    Where nobody knows, the number stands for who was the last to write it: each writes its own.
    """
    done, me = [0] * COUNTERS, dice.randrange(1 << 30)
    while not over.is_set():
        which = dice.randrange(COUNTERS)
        key = f"/{which}"
        try:
            entry = await store.get(key)
            number = int(entry.value.split()[0]) if entry else 0
            value = b"%d %d" % (number + 1, me)
            await store.put(key, value, expect=entry.mod_revision if entry else 0)
        except CompareFailed:
            continue
        except LairError:
            done[which] += await _was_written(store, key, value, number)
        else:
            done[which] += 1
    return done


async def _was_written(store: Store, key: str, value: bytes, number: int) -> bool:
    """Find out by all values that the key ever had, once it has another revision, so that none can come late."""
    revision = 0
    while True:
        try:
            entry = await store.get(key)
            if entry is not None and int(entry.value.split()[0]) > number:
                revision = entry.mod_revision
            if not revision:
                unchanged = b"0" if entry is None else entry.value
                revision = await store.put(key, unchanged, expect=0 if entry is None else entry.mod_revision)
            async for change in store.watch(key, 1):
                if any(event.entry is not None and event.entry.value == value for event in change.events):
                    return True
                if change.revision >= revision:
                    return False
        except (LairError, CompareFailed):
            await asyncio.sleep(0.05)


def leader_of(running: EtcdCluster) -> Member:
    """Return the member that leads."""
    for line in control(running, "endpoint", "status").splitlines():
        fields = [field.strip() for field in line.split(",")]
        if fields[4] == "true":
            return next(member for member in running.members if member.endpoint == fields[0])
    raise AssertionError("nobody leads")


async def test_the_leader_is_cut_off_under_load(etcd: EtcdCluster) -> None:
    """Again and again: each increment was done once, or not at all, and a watch saw every one of them."""
    address = parse_address(etcd.url("/load"))
    stores = [
        EtcdStore(replace(address, endpoints=address.endpoints[at % 3 :] + address.endpoints[: at % 3]), "store")
        for at in range(WRITERS)
    ]
    over = asyncio.Event()
    following = Following(stores[0], "/", await stores[0].revision() + 1)
    writers = [asyncio.create_task(count(store, random.Random(at), over)) for at, store in enumerate(stores)]
    for _ in range(3):
        leader = await asyncio.to_thread(leader_of, etcd)
        await asyncio.to_thread(etcd.cut_off, leader)
        await _progress(stores[0])
        assert await asyncio.to_thread(leader_of, etcd) is not leader
        await asyncio.to_thread(etcd.mend)
        await asyncio.to_thread(etcd.wait)
        await _progress(stores[1])
    over.set()
    done = [sum(each) for each in zip(*await asyncio.gather(*writers), strict=True)]
    page = await stores[0].list("/")
    assert [int(entry.value.split()[0]) for entry in page.entries] == done
    await stores[0].put("/end", b"end")
    await following.until(b"end")
    for at, number in enumerate(done):
        seen = {int(entry.value.split()[0]) for entry in following.entries if entry.key == f"/{at}"}
        assert seen >= set(range(1, number + 1))
    await following.end()
    for store in stores:
        await store.close()


async def _progress(store: Store) -> None:
    """Wait until a hundred more changes were written, by whoever."""
    begin = 0
    async with asyncio.timeout(60):
        while True:
            try:
                now = await store.revision()
            except LairError:
                continue
            begin = begin or now
            if now > begin + 100:
                return
            await asyncio.sleep(0.01)
