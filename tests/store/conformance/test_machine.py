"""Any sequence of operations gives the same results and the same events as the model."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from tests.etcd import settle
from tests.store.conformance.backends import Backend
from tests.store.conformance.model import Model

from sourcelair.errors import HistoryCompacted, InvalidInput
from sourcelair.store.base import Change, Compare, CompareFailed, Delete, LeaseNotFound, Operation, Put

T = TypeVar("T")

KEYS = st.sampled_from(["/a", "/a/", "/a/1", "/a/2", "/b", "/é\u0000x", "/\ud7ff", "/\ue000", "\U0010ffff\U0010ffff"])
PREFIXES = st.sampled_from(["", "/", "/a", "/a/", "/b", "/\ud7ff", "\U0010ffff", "/nothing"])
VALUES = st.binary(max_size=20)
PATIENCE = 5.0  # seconds, for what should come at once


class StoreMachine(RuleBasedStateMachine):
    leases = Bundle("leases")

    def __init__(self, make_backend: Callable[[Path], Backend], runner: asyncio.Runner) -> None:
        super().__init__()
        self.runner = runner
        self.directory = Path(tempfile.mkdtemp())
        self.backend = make_backend(self.directory)
        self.store = self.run(self.backend.open())
        self.model = Model(self.run(self.store.revision()))
        self.watches: list[tuple[AsyncIterator[Change], str, int]] = []

    def run(self, what: Awaitable[T]) -> T:
        async def call() -> T:
            return await asyncio.wait_for(what, PATIENCE)

        return self.runner.run(call())

    def teardown(self) -> None:
        self.run(self.store.close())
        shutil.rmtree(self.directory)

    def same(self, what: Awaitable[Any], expected: Callable[[], Any]) -> None:
        """Both give the same result, or raise the same error."""
        try:
            wanted: Any = expected()
        except (CompareFailed, LeaseNotFound) as error:
            refused = error
        else:
            result = self.run(what)
            assert result == wanted
            return
        with pytest.raises(type(refused)) as raised:
            self.run(what)
        if isinstance(refused, CompareFailed):
            assert vars(raised.value) == vars(refused)

    def some_revision(self, data: st.DataObject) -> int:
        # Counted from the first: where that lies differs from run to run, and what is drawn must not.
        return self.model.first + data.draw(st.integers(0, self.model.revision + 1 - self.model.first))

    def expectation(self, key: str, choice: str) -> int | None:
        entry = self.model.state.get(key)
        now = entry.mod_revision if entry else 0
        return {"any": None, "right": now, "absent": 0, "wrong": now + 1}[choice]

    choices = st.sampled_from(["any", "any", "right", "absent", "wrong"])

    @rule(key=KEYS, value=VALUES, choice=choices)
    def put(self, key: str, value: bytes, choice: str) -> None:
        expect = self.expectation(key, choice)
        compares = [] if expect is None else [Compare(key, expect)]
        self.same(self.store.put(key, value, expect=expect), lambda: self.model.transact(compares, [Put(key, value)]))

    @rule(key=KEYS, value=VALUES, lease=leases)
    def put_with_lease(self, key: str, value: bytes, lease: int) -> None:
        self.same(self.store.put(key, value, lease=lease), lambda: self.model.transact([], [Put(key, value, lease)]))

    @rule(key=KEYS, choice=choices)
    def delete(self, key: str, choice: str) -> None:
        expect = self.expectation(key, choice)
        compares = [] if expect is None else [Compare(key, expect)]

        def expected() -> bool:
            before = self.model.revision
            return self.model.transact(compares, [Delete(key)]) != before

        self.same(self.store.delete(key, expect=expect), expected)

    @rule(
        operations=st.lists(st.builds(Put, KEYS, VALUES) | st.builds(Delete, KEYS), unique_by=lambda each: each.key),
        guards=st.lists(st.tuples(KEYS, choices), max_size=2),
    )
    def transact(self, operations: list[Operation], guards: list[tuple[str, str]]) -> None:
        compares = [
            Compare(key, expect) for key, choice in guards if (expect := self.expectation(key, choice)) is not None
        ]
        self.same(self.store.transact(compares, operations), lambda: self.model.transact(compares, operations))

    @rule(writes=st.lists(st.tuples(KEYS, VALUES), min_size=2, max_size=6, unique_by=lambda each: each[0]))
    def put_at_once(self, writes: list[tuple[str, bytes]]) -> None:
        """Concurrent writes may share a revision; their order is the store's to choose."""

        async def put_all() -> list[int]:
            return await asyncio.gather(*(self.store.put(key, value) for key, value in writes))

        revisions = self.run(put_all())
        for revision in sorted(set(revisions)):
            together = [Put(*write) for found, write in zip(revisions, writes, strict=True) if found == revision]
            assert self.model.transact([], together) == revision

    @rule(target=leases, ttl=st.sampled_from([5.0, 10.0, 30.0]))
    def grant(self, ttl: float) -> int:
        ttl *= 100 if self.backend.real_time else 1  # none runs out by itself meanwhile
        lease = self.run(self.store.grant_lease(ttl))
        assert lease not in self.model.leases
        self.model.grant(lease, ttl)
        return lease

    @rule(lease=leases)
    def renew(self, lease: int) -> None:
        self.same(self.store.renew_lease(lease), lambda: self.model.renew(lease))

    @rule(lease=leases)
    def revoke(self, lease: int) -> None:
        self.run(self.store.revoke_lease(lease))
        self.model.end_lease(lease)

    @precondition(lambda self: not self.backend.real_time)
    @rule(seconds=st.sampled_from([1.0, 6.0, 11.0]))
    def time_passes(self, seconds: float) -> None:
        self.run(self.backend.pass_time(self.store, seconds))
        self.model.pass_time(seconds)

    @rule(prefix=PREFIXES, limit=st.integers(0, 3), data=st.data(), old=st.booleans())
    def list_in_pages(self, prefix: str, limit: int, data: st.DataObject, old: bool) -> None:
        revision = self.some_revision(data) if old else None
        if revision is not None and not self.model.compacted <= revision <= self.model.revision:
            wanted = InvalidInput if revision > self.model.revision else HistoryCompacted
            with pytest.raises(wanted):
                self.run(self.store.list(prefix, revision=revision, limit=limit))
            return
        found, after, more = [], "", True
        while more:
            page = self.run(self.store.list(prefix, revision=revision, start_after=after, limit=limit))
            assert not limit or len(page.entries) <= limit
            assert page.revision == (self.model.revision if revision is None else revision)
            found += page.entries
            more = page.more
            after = found[-1].key if found else ""
        assert found == self.model.list(prefix, self.model.revision if revision is None else revision)

    @rule(data=st.data())
    def compact(self, data: st.DataObject) -> None:
        revision = self.some_revision(data)
        if revision > self.model.revision:
            with pytest.raises(InvalidInput):
                self.run(self.store.compact(revision))
            return
        self.run(self.store.compact(revision))
        self.model.compacted = max(self.model.compacted, revision)

    @rule(prefix=PREFIXES, data=st.data())
    def watch(self, prefix: str, data: st.DataObject) -> None:
        start = self.model.first + 1 + data.draw(st.integers(0, self.model.revision - self.model.first))
        watch = self.store.watch(prefix, start)
        if start <= self.model.compacted:
            with pytest.raises(HistoryCompacted):
                self.run(anext(watch))
        else:
            self.watches.append((watch, prefix, start))
            self.catch_up(len(self.watches) - 1)

    def catch_up(self, index: int) -> None:
        """What happened is given, and no more than that: one more change comes next."""
        watch, prefix, start = self.watches[index]
        for wanted in self.model.watched(prefix, start):
            assert self.run(anext(watch)) == wanted
            start = wanted.revision + 1
        self.watches[index] = (watch, prefix, start)

    @precondition(lambda self: self.watches)
    @rule(data=st.data())
    def read_a_watch(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(0, len(self.watches) - 1))
        _, _, start = self.watches[index]
        try:
            self.catch_up(index)
        except HistoryCompacted:
            assert start <= self.model.compacted, "what is kept must be given"
            del self.watches[index]

    @rule()
    def reopen(self) -> None:
        self.run(self.store.close())
        for watch, _, start in self.watches:
            rest = [change.revision for change in self.run(_rest(watch))]
            assert all(revision >= start for revision in rest)
        self.watches.clear()
        self.store = self.run(self.backend.open())
        if self.backend.restart_renews_leases:
            self.model.renew_all()

    @invariant()
    def nothing_is_lost(self) -> None:
        assert self.run(self.store.revision()) == self.model.revision
        assert list(self.run(self.store.list("")).entries) == self.model.list("", self.model.revision)

    @rule(key=KEYS)
    def get(self, key: str) -> None:
        assert self.run(self.store.get(key)) == self.model.state.get(key)


async def _rest(watch: AsyncIterator[Change]) -> list[Change]:
    return [change async for change in watch]


def test_does_what_the_model_does(make_backend: Callable[[Path], Backend], tmp_path: Path) -> None:
    """Every result, error and event is the model's, whatever the order of operations, restarts and compactions."""
    with asyncio.Runner() as runner:
        run_state_machine_as_test(
            lambda: StoreMachine(make_backend, runner),
            settings=settings(
                max_examples=40,
                stateful_step_count=40,
                deadline=None,
                derandomize=True,
                phases=[Phase.generate],  # shrinking takes longer than a test may; a history of 40 steps can be read
                suppress_health_check=list(HealthCheck),
            ),
        )
        runner.run(settle(tmp_path))
