"""Copying all stores of an installation to another place, while a system goes on writing to them.

A copy is made in rounds. A round reads both sides in the order of their keys, and writes what differs, so it does not
matter how far an earlier one came. While a system is at work each round finds less; the last one is done while nobody
can write to the source any more, and then all is read once more and compared. The source is never written to.

What is kept with a lease is somebody's presence, and is not copied. A copy gets a mark (see `marks`): nothing starts on
one that is not whole, and nothing that is no older state of the same is ever overwritten.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

from sourcelair.errors import Conflict, HistoryCompacted, InvalidInput, LairError, NotFound
from sourcelair.store.base import Delete, Entry, Operation, Put, Readable, Store
from sourcelair.store.comparing import Content, digest, is_empty, pairs
from sourcelair.store.marks import KEY, CopyState, Mark, encode, mark_of
from sourcelair.store.places import Place

MOST_OPERATIONS, MOST_BYTES = 1000, 512 << 10
"""Keys, and bytes of their values, that are written at once: well below what etcd takes in one request."""

PAUSE = 0.2
"""Seconds between looks whether the system has ended, and between two rounds at least."""

REST = 10
"""How many times longer than a round lasted the next one waits, so that the system hardly notices."""

ATTEMPTS = 5
"""How often a round is begun anew where the system's store forgot the history that it was reading."""


@dataclass(slots=True)
class Copied:
    """What was done to one store. `revision` is the source's, as far as the copy goes."""

    keys: int = 0
    written: int = 0
    removed: int = 0
    revision: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a copy. `whole`: nobody can have written anything to the source that is not in it."""

    whole: bool
    stores: dict[str, Copied]


async def copy(
    source: Place, target: Place, names: Sequence[str], *, follow: bool, say: Callable[[str], None]
) -> Outcome:
    """Make a place's stores equal to another's.

    Args:
        source: copied from. A system may be at work there.
        target: copied to. Nobody may be at work there.
        names: of the stores.
        follow: go on until no system is at work at the source any more.
        say: told, for a person, how far it is.

    Raises:
        NotFound: there is nothing at the source.
        Conflict: somebody is at work at the target, or it holds something else than an older state of the source.
    """
    if str(source) == str(target):
        raise InvalidInput(f"{source} can't be copied to itself.")
    async with source.reading(names) as sources, target.writing(names) as targets:
        copies = {name: _Copy(source, sources[name], targets[name]) for name in names}
        for one in copies.values():
            await one.begin()
        if not any([not await is_empty(store) for store in sources.values()]):
            raise NotFound(f"{source} has no stores of SourceLair.")
        for name, one in copies.items():
            if not await one.may_replace(target):
                raise Conflict(
                    f"The store {name!r} in {target} has something else in it than an older state of {source}. "
                    f"Choose another place, or {target.how_to_empty(names)}."
                )
        for one in copies.values():
            await one.mark("copying")
        whole = await _in_rounds(source, names, copies, follow=follow, say=say)
    return Outcome(whole, {name: one.copied for name, one in copies.items()})


async def _in_rounds(
    source: Place, names: Sequence[str], copies: dict[str, _Copy], *, follow: bool, say: Callable[[str], None]
) -> bool:
    due = 0.0
    while True:
        async with source.resting(names) as prove:
            if prove is not None or not follow:
                say(f"Comparing with {source}, key by key")
                for one in copies.values():
                    await one.finish()
                if prove is not None:
                    await prove()
                for one in copies.values():
                    await one.mark("behind" if prove is None else "whole")
                return prove is not None
        if (started := time.monotonic()) >= due:
            for one in copies.values():
                await one.bring()
            if not due:
                say(f"Following the system on {source}: stop it (SIGTERM) whenever it suits, and this ends with it")
            due = time.monotonic() + REST * (time.monotonic() - started)
        await asyncio.sleep(PAUSE)


class _Copy:
    """One store's copy.

    Args:
        place: that is copied.
        source: the store there.
        target: the store that becomes its copy.
    """

    def __init__(self, place: Place, source: Readable, target: Store) -> None:
        self._place = place
        self._source = source
        self._target = target
        self._of: Mark | None = None
        self._brought = -1
        self._mark = Mark(str(place), "copying")
        self.copied = Copied()

    async def begin(self) -> None:
        """Look at the source. Raises Conflict: it is itself no whole copy."""
        self._of = await mark_of(self._source)
        if self._of is not None and self._of.state == "copying":
            raise Conflict(f"{self._place} is a copy of {self._of.source} that was not finished: finish that first.")

    async def may_replace(self, target: Place) -> bool:
        """Tell whether what is in the target is nothing, or an older state of the source and nothing else.

        That is an earlier copy of it, unfinished or unchanged; or what the source itself was once copied from, if
        nothing was written there since.
        """
        if await is_empty(self._target):
            return True
        known = await mark_of(self._target)
        if known is not None and known.source == str(self._place) and known.state == "copying":
            return True
        found = await digest(self._target)
        if known is not None and known.source == str(self._place) and known.digest == found:
            return True
        return self._of is not None and self._of.source == str(target) and self._of.digest == found

    async def mark(self, state: CopyState) -> None:
        """Write down what the copy is."""
        await self._target.put(KEY, encode(replace(self._mark, state=state)))

    async def bring(self) -> None:
        """Write all that differs from the source as it is now."""
        await _again(self._bring)

    async def finish(self) -> None:
        """Write all that differs, then read both once more and compare.

        Raises:
            LairError: they differ all the same.
        """
        await _again(self._finish)

    async def _bring(self) -> int:
        revision = await self._source.revision()
        if revision == self._brought:
            return revision
        most = min(self._target.most_operations or MOST_OPERATIONS, MOST_OPERATIONS)
        async with aclosing(pairs(self._source, self._target, revision)) as compared:
            async for some in compared:
                for batch in _batches([one for pair in some if (one := _to_make_equal(*pair)) is not None], most):
                    await self._write(batch)
        self._brought = revision
        return revision

    async def _write(self, operations: Sequence[Operation]) -> None:
        await self._target.transact([], operations)
        removed = sum(isinstance(one, Delete) for one in operations)
        self.copied.removed += removed
        self.copied.written += len(operations) - removed

    async def _finish(self) -> None:
        revision = await self._bring()
        keys, content, lowest = 0, Content(), await self._target.revision() + 1
        async with aclosing(pairs(self._source, self._target, revision)) as compared:
            async for some in compared:
                for wanted, found in some:
                    if (operation := _to_make_equal(wanted, found)) is not None:
                        raise LairError(f"{operation.key} differs from its copy: who else writes to it? Copy again.")
                    if found is not None:
                        keys += 1
                        lowest = min(lowest, found.mod_revision)
                        content.add(found)
        shown = revision + (self._of.ahead if self._of is not None else 0)
        self.copied.keys, self.copied.revision = keys, shown
        # Each key's revision in the copy is to be a newer one than any that the source ever had.
        self._mark = Mark(str(self._place), "copying", max(0, shown - lowest + 1), content.digest())


def _to_make_equal(wanted: Entry | None, found: Entry | None) -> Operation | None:
    """Return what makes a key of the copy what it is in the source; None where it is that already."""
    if wanted is None:
        return None if found is None else Delete(found.key)
    return None if found is not None and found.value == wanted.value else Put(wanted.key, wanted.value)


def _batches(operations: Sequence[Operation], most: int) -> Iterator[list[Operation]]:
    """Give operations in as few transactions as every kind of store takes."""
    batch, size = list[Operation](), 0
    for one in operations:
        bytes_of_it = len(one.value) if isinstance(one, Put) else 0
        if len(batch) >= most or (batch and size + bytes_of_it > MOST_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(one)
        size += bytes_of_it
    if batch:
        yield batch


async def _again(step: Callable[[], Awaitable[object]]) -> None:
    """Take a step, and take it anew where the source forgot the history that it was reading."""
    for left in reversed(range(ATTEMPTS)):
        try:
            await step()
        except HistoryCompacted:
            if not left:
                raise
        else:
            return
