"""Much at once: a watch loses nothing, and neither side needs memory for what is yet to be read."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator

import psutil
import pytest
from tests.etcd import EtcdCluster, running_etcd

from sourcelair.store.base import Put
from sourcelair.store.etcd import EtcdStore, parse_address
from sourcelair.store.etcd.transactions import MAX_TXN_OPS
from sourcelair.telemetry import get_logger

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]

EVENTS = int(os.environ.get("LAIR_TEST_ETCD_EVENTS") or 100_000)
"""Changes of a burst; set the variable for more."""

VALUE = 500
"""Bytes of each, as a route has them."""

AT_ONCE = 8

MEMORY = 60_000_000
"""Bytes by which this process may grow meanwhile, however many they are: each takes 1.1 kB of an answer."""

_log = get_logger(__name__)


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdCluster]:
    with running_etcd(tmp_path_factory.mktemp("etcd")) as running:
        yield running


async def burst(store: EtcdStore) -> int:
    """Write all, and return the first revision of it."""
    first = await store.revision() + 1
    numbers = iter(range(0, EVENTS, MAX_TXN_OPS))

    async def write() -> None:
        for at in numbers:
            some = range(at, min(at + MAX_TXN_OPS, EVENTS))
            await store.transact([], [Put(f"/{number % (EVENTS // 2)}", b"%0*d" % (VALUE, number)) for number in some])

    await asyncio.gather(*(write() for _ in range(AT_ONCE)))
    return first


@pytest.mark.parametrize("reads", ["while it is written", "after it was written"])
async def test_a_slow_reader_gets_every_event_of_a_burst(etcd: EtcdCluster, reads: str) -> None:
    """Each key was changed twice; one change at a time is taken, each after a pause."""
    store = EtcdStore(parse_address(etcd.url(f"/{reads[:5]}")), "store")
    other = EtcdStore(parse_address(etcd.url(f"/{reads[:5]}")), "store")
    process, seen, revisions = psutil.Process(), bytearray(EVENTS), list[int]()
    before, most = process.memory_info().rss, 0
    first = await store.revision() + 1
    writing = asyncio.create_task(burst(other))
    if reads == "after it was written":
        await writing
        before = process.memory_info().rss
    taken = 0
    async for change in store.watch("/", first):
        revisions.append(change.revision)
        for event in change.events:
            assert event.entry is not None
            seen[int(event.entry.value)] += 1
            assert (event.previous is None) == (event.entry.version == 1)
        taken += len(change.events)
        if len(revisions) % 10 == 0:
            await asyncio.sleep(0.01)
            most = max(most, process.memory_info().rss - before)
        if taken >= EVENTS:
            break
    await writing
    assert revisions == sorted(set(revisions)) and taken == EVENTS
    assert set(seen) == {1}, "each of them came once"
    _log.info("burst_read", events=taken, grown_bytes=most)
    assert most < MEMORY
    for one in (store, other):
        await one.close()
