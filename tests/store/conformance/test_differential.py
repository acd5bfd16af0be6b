"""SQLite and etcd, side by side: the same operations give the same results, errors and events, step by step.

Revisions of the two differ: etcd's counter begins elsewhere, and others move it. So each revision that SQLite gives is
noted with etcd's, and what etcd says is told in SQLite's numbers before it is compared.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from tests.etcd import EtcdCluster, settle
from tests.store.conformance.backends import EtcdBackend, SqliteBackend
from tests.store.conformance.numbers import Lease, Numbers

from sourcelair.errors import HistoryCompacted, LairError
from sourcelair.store.base import Change, Compare, CompareFailed, Delete, LeaseNotFound, Page, Put, Store
from sourcelair.store.limits import MAX_INTEGER, MAX_KEY, MAX_VALUE

pytestmark = pytest.mark.timeout(3600 if os.environ.get("LAIR_TEST_ETCD_EXAMPLES") else 120)

T = TypeVar("T")

EXAMPLES = int(os.environ.get("LAIR_TEST_ETCD_EXAMPLES") or 0)
"""Histories that are tried, each another one at every run; 0: always the same few."""

PATIENCE = 10.0
"""Seconds for what should come at once."""

TTL = 6000.0
"""Seconds of a lease, so that none runs out by itself."""

NAMES = ["/a", "/a/", "/a/1", "/a/2", "/b", "/é\0x", "/\ud7ff", "/\ue000", "\U0010ffff\U0010ffff"]
KEYS = st.sampled_from([*NAMES, "", "\ud800", "k" * MAX_KEY, "k" * (MAX_KEY + 1), "é" * MAX_KEY])
GOOD = st.sampled_from(NAMES)
PREFIXES = st.sampled_from(["", "/", "/a", "/a/", "/b", "/\ud7ff", "\U0010ffff", "/nothing", "\udfff"])
SCOPES = st.sampled_from(["", "/", "/a", "/a/", "/b", "/nothing"])
VALUES = st.binary(max_size=20) | st.sampled_from([MAX_VALUE, MAX_VALUE + 1])
"""Or how long one is."""
CHOICES = st.sampled_from(["any", "any", "right", "absent", "older", "newer", "negative", "huge"])
LIMITS = st.sampled_from([0, 0, 1, 2, 3, 100, -1, MAX_INTEGER, MAX_INTEGER + 1])
FAR = st.sampled_from([-1, MAX_INTEGER, MAX_INTEGER + 1])
"""Revisions that are the same for both, and never were."""


NEVER = Lease(MAX_INTEGER, MAX_INTEGER)


@dataclass
class Watch:
    """The same watch of both; `at` is the next revision that it has to give."""

    sqlite: AsyncIterator[Change]
    etcd: AsyncIterator[Change]
    prefix: str
    at: int


class Both(RuleBasedStateMachine):
    leases = Bundle("leases")

    def __init__(self, runner: asyncio.Runner) -> None:
        super().__init__()
        self.runner = runner
        self.directory = Path(tempfile.mkdtemp())
        self.backends = SqliteBackend(self.directory), EtcdBackend(self.directory)
        self.sqlite, self.etcd = (self.run(backend.open()) for backend in self.backends)
        self.stranger = self.run(EtcdBackend(self.directory).open())
        self.numbers = Numbers(self.run(self.sqlite.revision()), self.run(self.etcd.revision()))
        self.watches: list[Watch] = []
        self.compacted = self.numbers.first
        self.ends = 0

    def run(self, what: Awaitable[T]) -> T:
        async def call() -> T:
            return await asyncio.wait_for(what, PATIENCE)

        return self.runner.run(call())

    def teardown(self) -> None:
        for store in (self.sqlite, self.etcd, self.stranger):
            self.run(store.close())
        shutil.rmtree(self.directory)

    # What came of it, in SQLite's numbers.

    def outcome(self, what: Awaitable[Any]) -> object:
        try:
            return self.run(what)
        except CompareFailed as error:
            return CompareFailed, error.key, error.mod_revision
        except LeaseNotFound:
            return LeaseNotFound
        except LairError as error:
            return type(error), error.retry_after, error.extra

    def same(
        self,
        ask: Callable[[Store, Callable[[int], int], Callable[[Lease], int]], Awaitable[Any]],
        *,
        revision: bool = False,
    ) -> object:
        """Ask both, and compare; return SQLite's answer. With `revision` the answer is one."""
        ours = self.outcome(ask(self.sqlite, lambda one: one, lambda lease: lease.sqlite))
        theirs = self.outcome(ask(self.etcd, self.numbers.to_etcd, lambda lease: lease.etcd))
        self.numbers.note(self.run(self.sqlite.revision()), self.run(self.etcd.revision()))
        if revision and isinstance(theirs, int):
            theirs = self.numbers.at(theirs)
        assert self.numbers.told(theirs) == ours
        return ours

    # What is drawn must not depend on etcd's numbers, which differ from run to run.

    def some_revision(self, data: st.DataObject) -> int:
        return data.draw(st.integers(self.numbers.first, self.numbers.last) | FAR)

    def expectation(self, key: str, choice: str) -> int | None:
        try:
            entry = self.run(self.sqlite.get(key))
        except LairError:
            entry = None
        now = entry.mod_revision if entry else 0
        older, newer = max(0, now - 1), min(self.numbers.last, now + 1)
        return {
            "any": None,
            "right": now,
            "absent": 0,
            "older": older,
            "newer": newer,
            "negative": -1,
            "huge": MAX_INTEGER + 1,
        }[choice]

    # Writes.

    @rule(key=KEYS, value=VALUES, choice=CHOICES)
    def put(self, key: str, value: bytes | int, choice: str) -> None:
        expect, content = self.expectation(key, choice), b"x" * value if isinstance(value, int) else value
        self.same(
            lambda store, revision, _: store.put(
                key, content, expect=None if expect is None else expect and revision(expect)
            ),
            revision=True,
        )

    @rule(key=GOOD, value=st.binary(max_size=5), lease=leases)
    def put_with_lease(self, key: str, value: bytes, lease: Lease) -> None:
        self.same(lambda store, _, of: store.put(key, value, lease=of(lease)), revision=True)

    @rule(key=KEYS, choice=CHOICES)
    def delete(self, key: str, choice: str) -> None:
        expect = self.expectation(key, choice)
        self.same(
            lambda store, revision, _: store.delete(key, expect=None if expect is None else expect and revision(expect))
        )

    @rule(
        guards=st.lists(st.tuples(GOOD, CHOICES), max_size=6),
        puts=st.lists(st.tuples(GOOD, st.binary(max_size=5)), max_size=5),
        deletes=st.lists(GOOD, max_size=5),
    )
    def transact(self, guards: list[tuple[str, str]], puts: list[tuple[str, bytes]], deletes: list[str]) -> None:
        """Keys may come twice, among the conditions and among the operations."""
        demands = [(key, expect) for key, choice in guards if (expect := self.expectation(key, choice)) is not None]
        self.same(
            lambda store, revision, _: store.transact(
                [Compare(key, expect and revision(expect)) for key, expect in demands],
                [*(Put(key, value) for key, value in puts), *map(Delete, deletes)],
            ),
            revision=True,
        )

    @rule(leases=st.lists(leases, max_size=3), keys=st.permutations(NAMES))
    def transact_with_leases(self, leases: list[Lease], keys: list[str]) -> None:
        self.same(
            lambda store, _, of: store.transact(
                [], [Put(key, b"", of(lease)) for key, lease in zip(keys, leases, strict=False)]
            ),
            revision=True,
        )

    @rule(target=leases)
    def grant(self) -> Lease:
        lease = Lease(self.run(self.sqlite.grant_lease(TTL)), self.run(self.etcd.grant_lease(TTL)))
        self.numbers.note_lease(lease)
        return lease

    @rule(target=leases)
    def never_granted(self) -> Lease:
        return NEVER

    @rule(ttl=st.sampled_from([0.0, -1.0, float("nan"), float("inf"), 1e300]))
    def grant_nonsense(self, ttl: float) -> None:
        self.same(lambda store, _, __: store.grant_lease(ttl))

    @rule(lease=leases)
    def renew(self, lease: Lease) -> None:
        self.same(lambda store, _, of: store.renew_lease(of(lease)))

    @rule(lease=leases)
    def revoke(self, lease: Lease) -> None:
        self.same(lambda store, _, of: store.revoke_lease(of(lease)))

    @rule()
    def others_write(self) -> None:
        """To the same cluster: nobody here sees anything of it."""
        self.run(self.stranger.put("/a", b"theirs"))

    # Reads.

    @rule(key=KEYS)
    def get(self, key: str) -> None:
        self.same(lambda store, _, __: store.get(key))

    @rule(prefix=PREFIXES, after=st.just("") | KEYS, limit=LIMITS, data=st.data(), old=st.booleans())
    def list_pages(self, prefix: str, after: str, limit: int, data: st.DataObject, old: bool) -> None:
        """Pages until the last one, at a revision or as it stands."""
        at = self.some_revision(data) if old else None
        while True:
            page = self.same(
                lambda store, revision, _, after=after: store.list(
                    prefix, revision=None if at is None else revision(at), start_after=after, limit=limit
                )
            )
            if not isinstance(page, Page) or not page.more:
                return
            after = page.entries[-1].key

    @rule(data=st.data())
    def compact(self, data: st.DataObject) -> None:
        at = self.some_revision(data)
        if self.same(lambda store, revision, _: store.compact(revision(at))) is None:
            self.compacted = max(self.compacted, at)

    # Watches.

    @rule(prefix=SCOPES, data=st.data())
    def watch(self, prefix: str, data: st.DataObject) -> None:
        """From any revision on; one whose history is gone says so at once."""
        start = data.draw(st.integers(self.numbers.first + 1, self.numbers.last + 1))
        after = self.numbers.to_etcd(start - 1)
        watch = Watch(self.sqlite.watch(prefix, start), self.etcd.watch(prefix, after + 1), prefix, start)
        if start > self.compacted:
            self.watches.append(watch)
            self.read(watch)
            return
        for one in (watch.sqlite, watch.etcd):
            with pytest.raises(HistoryCompacted):
                self.run(anext(one))

    @precondition(lambda self: self.watches)
    @rule(data=st.data())
    def read_a_watch(self, data: st.DataObject) -> None:
        self.read(data.draw(st.sampled_from(self.watches)))

    def read(self, watch: Watch) -> None:
        """Write a key that ends it, and compare all that comes until then.

        What was forgotten before it was read either of them may still give, or not.
        """
        self.ends += 1
        self.same(lambda store, _, __: store.put(f"{watch.prefix or '/'}~{self.ends % 3}", b"end"), revision=True)
        last, found = self.numbers.last, list[list[Change]]()
        for one, end in ((watch.sqlite, last), (watch.etcd, self.numbers.to_etcd(last))):
            try:
                found.append(self.run(_until(one, end)))
            except HistoryCompacted:
                assert watch.at <= self.compacted, "what is kept must be given"
                self.watches.remove(watch)
                return
        assert [self.numbers.told(change) for change in found[1]] == found[0]
        watch.at = last + 1

    @rule()
    def reopen(self) -> None:
        for store in (self.sqlite, self.etcd):
            self.run(store.close())
        for watch in self.watches:
            self.run(_rest(watch.sqlite))
            self.run(_rest(watch.etcd))
        self.watches.clear()
        self.sqlite, self.etcd = (self.run(backend.open()) for backend in self.backends)

    @invariant()
    def they_hold_the_same(self) -> None:
        self.same(lambda store, _, __: store.list(""))


async def _until(watch: AsyncIterator[Change], last: int) -> list[Change]:
    found = list[Change]()
    while not found or found[-1].revision < last:
        found.append(await anext(watch))
    return found


async def _rest(watch: AsyncIterator[Change]) -> None:
    async for _ in watch:
        pass


def test_both_do_the_same(etcd: EtcdCluster, tmp_path: Path) -> None:
    """Every result, error and event of one is the other's, among what others write to the same cluster."""
    EtcdBackend.cluster = etcd
    with asyncio.Runner() as runner:
        run_state_machine_as_test(
            lambda: Both(runner),
            settings=settings(
                max_examples=EXAMPLES or 25,
                stateful_step_count=40,
                deadline=None,
                derandomize=not EXAMPLES,
                database=None,
                phases=[Phase.generate],  # shrinking takes longer than a test may; a history of 40 steps can be read
                suppress_health_check=list(HealthCheck),
            ),
        )
        runner.run(settle(tmp_path))
