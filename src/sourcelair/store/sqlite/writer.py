"""The one thread that writes, and group commit.

While a commit waits for the disk, jobs queue up; the next commit takes all of them. So one caller pays one fsync, and a
hundred callers pay one together. A job is answered after its commit and never before: what was acknowledged is on
disk. Jobs run in the order in which they were submitted.

A commit whose sync fails may be whole on the disk, and would be there again when the file is opened the next time. So
before its jobs are told that nothing was written, another commit is written over it. Where that fails too nobody knows,
and they are told so; nothing else is written before it has been written over.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sqlite3
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from sourcelair.errors import Unavailable
from sourcelair.store.base import Change
from sourcelair.store.sqlite.files import SCHEMA_VERSION, is_unclear, store_error
from sourcelair.store.sqlite.ledger import Ledger
from sourcelair.store.sqlite.turns import Turns

T = TypeVar("T")

MAX_BATCH = 1024
"""Jobs in one commit."""

CHECKPOINT = 100
"""Commits after which the log of them is brought into the database: half of what makes SQLite do that in a commit."""


@dataclass(slots=True)
class _Job:
    run: Callable[[Ledger], Any]
    answer: asyncio.Future[Any] | None = None
    result: Any = None
    error: Exception | None = None


@dataclass(frozen=True, slots=True)
class Committed:
    """What one commit did, as the event loop is told about it."""

    changes: list[Change]
    compacted: int


class Writer:
    """Owns the writing connection, from `start` to `close`.

    Args:
        path: of the file, for messages.
        connection: used by this thread alone from now on.
        history: rows of history beyond which the oldest are compacted.
        turns: is told of every job that waits.
        on_commit: called on the event loop after each commit that changed something, before those who wait for its
            jobs go on.
    """

    def __init__(
        self,
        path: Path,
        connection: sqlite3.Connection,
        history: int,
        turns: Turns,
        on_commit: Callable[[Committed], None],
    ) -> None:
        self._path = path
        self._connection = connection
        self._history = history
        self._turns = turns
        self._on_commit = on_commit
        self._ledger = Ledger(connection)
        self._queue: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._stopped: asyncio.Future[None] = self._loop.create_future()
        self._closing = False
        self._unclear = False
        self._uncheckpointed = 0
        """Commits since the last checkpoint."""
        # A daemon: a program that forgets to close must still be able to end. SQLite's file is right at any moment.
        self._thread = threading.Thread(target=self._run, name=f"store-{path.name}", daemon=True)
        self.revision = self._ledger.revision
        self.compacted = self._ledger.compacted
        self.leases = self._ledger.leases()

    def start(self) -> None:
        """Begin to take jobs."""
        self._thread.start()

    async def submit(self, run: Callable[[Ledger], T]) -> T:
        """Run a job in the next transaction, and return its result once that is on disk.

        A caller that is cancelled meanwhile doesn't know whether its job was done.

        Raises:
            OutOfSpace: the disk is full or failing; nothing of the job was written.
            Unavailable: the store is closed; or the disk failed, and the message says whether the job may have been
                written nevertheless.
            Exception: whatever the job raised; nothing of it was written then.
        """
        if self._closing:
            raise Unavailable(f"The store {self._path} is closed.")
        answer: asyncio.Future[T] = self._loop.create_future()
        self._queue.put(_Job(run, answer))
        with self._turns:
            return await answer

    async def close(self) -> None:
        """Finish what was submitted, then end the thread and close the connection."""
        if not self._closing:
            self._closing = True
            self._queue.put(None)
        await asyncio.shield(self._stopped)

    def _run(self) -> None:
        open_ = True
        try:
            while open_:
                jobs, open_ = self._next_batch()
                self._commit(jobs)
                self._compact()
                self._checkpoint()
        finally:
            self._connection.close()
            self._on_loop(self._stop)

    def _next_batch(self) -> tuple[list[_Job], bool]:
        """Wait for a job; return all that are there then, and whether more may come."""
        jobs: list[_Job] = []
        waiting = self._queue.get()
        while waiting is not None:
            jobs.append(waiting)
            if len(jobs) == MAX_BATCH or self._queue.empty():  # nobody else takes from it
                return jobs, True
            waiting = self._queue.get_nowait()
        return jobs, False

    def _commit(self, jobs: list[_Job]) -> None:
        if not self._is_clear():
            for job in jobs:
                job.error = Unavailable(f"The disk of {self._path} fails: nothing was written. Look after the disk.")
        else:
            try:
                self._together(jobs)
            except sqlite3.Error:
                # Perhaps only one of them was too much for the disk: each one more, for itself.
                for job in jobs:
                    job.error = self._alone(job)
        done = Committed(self._ledger.take_changes(), self._ledger.compacted)
        self._on_loop(self._answer, jobs, done)

    def _alone(self, job: _Job) -> Exception | None:
        """Run one job in a transaction of its own, and return its error."""
        try:
            self._together([job])
        except sqlite3.Error as error:
            if self._is_clear():
                return store_error(self._path, error)
            return Unavailable(
                f"The disk of {self._path} gave an I/O error while this was committed, and could not take it back: "
                "whether it is written shows once the disk works again. Look after the disk."
            )
        return job.error

    def _is_clear(self) -> bool:
        """Make sure that no commit that failed can come back; return False where that can't be done now."""
        if self._unclear:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                # Changes nothing, and is a commit all the same: of a row that stays as it is, no page is written.
                self._connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
                self._connection.execute("COMMIT")
            except sqlite3.Error:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                return False
            self._unclear = False
        return True

    def _together(self, jobs: list[_Job]) -> None:
        """Run jobs in one transaction, or raise sqlite3.Error and leave no trace of them."""
        mark, committing = self._ledger.mark(), False
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            for job in jobs:
                self._one(job)
            committing = True
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            self._unclear = self._unclear or (committing and is_unclear(error))
            self._ledger.reset(mark)
            if self._connection.in_transaction:  # SQLite ends it by itself after some errors
                self._connection.execute("ROLLBACK")
            raise

    def _one(self, job: _Job) -> None:
        """Run one job in a savepoint of its own: what it raises must not take the others with it."""
        job.error = None
        mark = self._ledger.mark()
        self._connection.execute("SAVEPOINT job")
        try:
            job.result = job.run(self._ledger)
        except sqlite3.Error:
            raise
        except Exception as error:  # it is the caller's, who gets it
            job.error = error
            self._ledger.reset(mark)
            self._connection.execute("ROLLBACK TO job")
        self._connection.execute("RELEASE job")

    def _compact(self) -> None:
        """Take one small step of compaction where history has outgrown its bound."""
        if self._ledger.surplus > self._history and self._ledger.compacted < self._ledger.revision:
            self._commit([_Job(lambda ledger: ledger.compact(ledger.revision))])

    def _checkpoint(self) -> None:
        """Bring what was committed into the database, now and then while nobody waits: else a commit has to do it.

        It changes nothing that a reader sees, and where it fails, a later one does it.
        """
        self._uncheckpointed += 1
        if self._uncheckpointed >= CHECKPOINT and self._queue.empty():
            self._uncheckpointed = 0
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)")

    def _answer(self, jobs: list[_Job], done: Committed) -> None:
        """On the event loop: answer, then publish. Whoever is answered goes on after both, and before all watchers."""
        for job in jobs:
            if job.answer is None or job.answer.done():  # our own, or its caller was cancelled
                continue
            if job.error is None:
                job.answer.set_result(job.result)
            else:
                job.answer.set_exception(job.error)
        self._on_commit(done)

    def _stop(self) -> None:
        if not self._stopped.done():
            self._stopped.set_result(None)

    def _on_loop(self, function: Callable[..., None], *args: object) -> None:
        try:
            self._loop.call_soon_threadsafe(function, *args)
        except RuntimeError:
            # The loop was closed without closing the store; nobody is left to be told. What is committed stays.
            self._closing = True
