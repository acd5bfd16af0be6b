"""A watch loses nothing, whatever happens to the members: seen by what every event says stood before it."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from pathlib import Path

import pytest
from tests.etcd import EtcdCluster, Member, running_etcd

from sourcelair.errors import HistoryCompacted, LairError
from sourcelair.store.base import Change, Store
from sourcelair.store.etcd import EtcdStore, parse_address
from sourcelair.telemetry import get_logger

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]

SECONDS = float(os.environ.get("LAIR_TEST_ETCD_SECONDS") or 12)
"""Seconds of chaos; set the variable for more."""

SEED = 1
KEYS = 40
WATCHERS = 3

_log = get_logger(__name__)


class Follower:
    """The keys as somebody knows them who lists once and then only watches, until history is gone."""

    def __init__(self, store: Store) -> None:
        self.state: dict[str, bytes] = {}
        self.events = 0
        self.lists = 0
        self._store = store

    async def follow(self) -> None:
        """Follow until the last key comes."""
        while True:
            try:
                page = await self._store.list("/k/")
            except LairError:
                continue
            self.lists += 1
            self.state = {entry.key: entry.value for entry in page.entries}
            if "/k/last" in self.state:
                return
            try:
                async for change in self._store.watch("/k/", page.revision + 1):
                    self._take(change)
                    if "/k/last" in self.state:
                        return
            except HistoryCompacted:
                continue

    def _take(self, change: Change) -> None:
        for event in change.events:
            known = self.state.get(event.key)
            if event.previous is not None:
                assert event.previous.value == known, "an event was lost, or came twice"
            elif event.entry is not None and event.entry.version == 1:
                assert known is None, "a deletion was lost"
            self.events += 1
            if event.entry is None:
                del self.state[event.key]
            else:
                self.state[event.key] = event.entry.value


async def write(store: Store, over: asyncio.Event) -> int:
    """Write and delete at random; what etcd does not take is left."""
    dice, done = random.Random(SEED), 0
    while not over.is_set():
        key = f"/k/{dice.randrange(KEYS)}"
        try:
            if dice.random() < 0.3:
                await store.delete(key)
            else:
                await store.put(key, b"%d" % done)
            done += 1
        except LairError as error:
            _log.info("not_written", error=error.detail)
    return done


async def disturb(cluster: EtcdCluster, store: Store) -> list[str]:
    """Do something bad to members, again and again; all of them are well again in the end."""
    dice, loop, done = random.Random(SEED), asyncio.get_running_loop(), list[str]()
    end = loop.time() + SECONDS
    while loop.time() < end:
        action, member = dice.choice(["kill", "pause", "compact", "compact", "kill all"]), dice.choice(cluster.members)
        done.append(action)
        if action == "compact":
            try:
                await store.compact(await store.revision())
            except LairError as error:
                _log.info("not_compacted", error=error.detail)
        elif action == "pause":
            member.send(signal.SIGSTOP)
            await asyncio.sleep(dice.uniform(0.2, 2))
            member.send(signal.SIGCONT)
        else:
            await _restart(cluster.members if action == "kill all" else [member], dice.uniform(0, 1.5))
        await asyncio.sleep(dice.uniform(0.1, 1))
    await asyncio.to_thread(cluster.wait)
    return done


async def _restart(members: list[Member], seconds: float) -> None:
    for member in members:
        member.kill()
    await asyncio.sleep(seconds)
    for member in members:
        member.start()


async def test_a_watch_loses_nothing_whatever_happens_to_the_members(tmp_path: Path) -> None:
    """Members are killed, all at once too, and paused, and history is compacted, while keys change all the time."""
    with running_etcd(tmp_path, 3) as cluster:
        address = parse_address(cluster.url("/chaos"))
        stores = [EtcdStore(address, "store") for _ in range(WATCHERS + 1)]
        followers = [Follower(store) for store in stores[1:]]
        following = [asyncio.create_task(follower.follow()) for follower in followers]
        over = asyncio.Event()
        writing = asyncio.create_task(write(stores[0], over))
        done = await disturb(cluster, stores[0])
        over.set()
        written = await writing
        await stores[0].put("/k/last", b"")
        async with asyncio.timeout(30):
            await asyncio.gather(*following)
        page = await stores[0].list("/k/")
        for follower in followers:
            assert follower.state == {entry.key: entry.value for entry in page.entries}
            assert follower.events > 0
        assert written > 100 and len(done) > 3
        for store in stores:
            await store.close()
