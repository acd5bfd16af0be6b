"""What owners say once for all of their servers: stored, in effect for each of them, and told to whoever follows.

A policy counts as soon as it is stored. Then every server that it changes gets a revision of its own, so that events
tell of it and waiting workers look again, and its routes are written where their settings change. No instance is
stopped for that: limits count from the next start on.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

from sourcelair.client.owners import OwnerPolicy
from sourcelair.client.policy import Policy
from sourcelair.errors import NotFound, PreconditionFailed, Unavailable
from sourcelair.names import check_name
from sourcelair.servers.context import Context
from sourcelair.servers.records import OWNERS, OwnerRecord, decode, encode
from sourcelair.servers.republishing import republish
from sourcelair.servers.worker import Worker
from sourcelair.store.base import CompareFailed
from sourcelair.telemetry import get_logger

_log = get_logger(__name__)

AT_ONCE = 50
"""Servers that are brought up to date at once: their writes share a transaction of the disk, and others get turns."""

LONGEST_WAIT = 30.0
"""Seconds after which a change is answered though not all servers have it yet: Ceryx may not answer."""

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 10.0
"""Seconds until servers are tried again whose records could not be written."""


class Owners:
    """The policies of all owners.

    Args:
        context: what all workers share.
        workers: returns those of one owner.
    """

    def __init__(self, context: Context, workers: Callable[[str], list[Worker]]) -> None:
        self._context = context
        self._workers = workers
        self._revisions: dict[str, int] = {}
        self._writing = asyncio.Lock()

    async def load(self) -> None:
        """Read all policies; called before the first server is loaded."""
        page = await self._context.store.list(OWNERS)
        for entry in page.entries:
            record = decode(OwnerRecord, entry)
            self._take(record.owner, record.policy, entry.mod_revision)

    def _take(self, owner: str, policy: Policy, revision: int) -> None:
        self._context.policies.owners[owner] = policy
        self._revisions[owner] = revision

    def names(self) -> list[str]:
        """Return the owners that have a policy."""
        return sorted(self._revisions)

    def get(self, owner: str) -> OwnerPolicy:
        """Return an owner's policy.

        Raises:
            InvalidInput: this is no owner's name.
            NotFound: it has none: the installation's settings are in effect.
        """
        check_name("owner", owner)
        if owner not in self._revisions:
            raise NotFound(f"No policy found for {owner}: the installation's settings are in effect.")
        return OwnerPolicy(owner=owner, policy=self._context.policies.owners[owner], revision=self._revisions[owner])

    async def put(self, owner: str, policy: Policy, expect: int | None = None) -> tuple[OwnerPolicy, bool]:
        """Store an owner's policy, and bring its servers up to date.

        Args:
            owner: whose.
            policy: all that it says.
            expect: the revision that it must have; 0: there must be none.

        Returns:
            the policy, and whether there was none before.

        Raises:
            InvalidInput: this is no owner's name.
            PreconditionFailed: `expect` does not hold.
        """
        check_name("owner", owner)
        async with self._writing:
            before = self._expect(owner, expect)
            record = OwnerRecord(owner=owner, policy=policy)
            async with self._reread_if_lost(owner):
                revision = await self._context.store.put(OWNERS + owner, encode(record), expect=before)
            self._take(owner, policy, revision)
            stored = self.get(owner)
        await self._bring_all(owner)
        return stored, before == 0

    async def delete(self, owner: str, expect: int | None = None) -> None:
        """Forget what an owner said, and bring its servers up to date.

        Raises:
            InvalidInput: this is no owner's name.
            NotFound: it has none.
            PreconditionFailed: `expect` does not hold.
        """
        async with self._writing:
            self.get(owner)
            before = self._expect(owner, expect)
            async with self._reread_if_lost(owner):
                await self._context.store.delete(OWNERS + owner, expect=before)
            self._drop(owner)
        await self._bring_all(owner)

    def _drop(self, owner: str) -> None:
        del self._context.policies.owners[owner]
        del self._revisions[owner]

    @contextlib.asynccontextmanager
    async def _reread_if_lost(self, owner: str) -> AsyncIterator[None]:
        """Learn how a policy stands, where this write of it shows that the answer to an earlier one never came.

        Raises:
            Unavailable: that is so; nothing was written.
        """
        try:
            yield
        except CompareFailed:
            await self._reread(owner)
            raise Unavailable(
                f"The policy of {owner} was changed by a write whose answer never came: look at it, and try again.",
                retry_after=1,
            ) from None

    async def _reread(self, owner: str) -> None:
        entry = await self._context.store.get(OWNERS + owner)
        if entry is not None:
            self._take(owner, decode(OwnerRecord, entry).policy, entry.mod_revision)
        elif owner in self._revisions:
            self._drop(owner)

    def _expect(self, owner: str, expect: int | None) -> int:
        """Return the revision of an owner's policy, 0 for none. Raises PreconditionFailed: another was expected."""
        revision = self._revisions.get(owner, 0)
        if expect is not None and expect != revision:
            said = f"is at revision {revision}, not {expect}" if revision else "does not exist"
            raise PreconditionFailed(
                f"The policy of {owner} exists already." if expect == 0 else f"The policy of {owner} {said}.",
                revision=revision,
            )
        return revision

    async def _bring_all(self, owner: str) -> None:
        workers = self._workers(owner)

        async def bring() -> None:
            pending, pause = workers, FIRST_PAUSE
            while pending := await self._try(pending):
                _log.warning("policy_not_stored", servers=[worker.record.name for worker in pending[:5]])
                await asyncio.sleep(pause)
                pause = min(pause * 2, LONGEST_PAUSE)
            await self._route(workers)

        await self._for_a_while(bring(), f"policy of {owner}")

    async def bring_routes(self, worker: Worker) -> None:
        """Write the routes of a server again where its settings changed; it goes on where that takes long."""
        if worker.settings_due() is not None:
            await self._for_a_while(self._route([worker]), f"routes of {worker.record.name}")

    async def _route(self, workers: list[Worker]) -> None:
        await self._context.ready.wait()  # before that recovery writes the routes, each of them once
        await republish(workers)

    async def _for_a_while(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Wait for some work, and let it go on in the background where it takes longer than a request may."""
        done = asyncio.Event()

        async def run() -> None:
            try:
                await work
            finally:
                done.set()

        self._context.spawn(run(), name=name)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(done.wait(), LONGEST_WAIT)

    async def _try(self, workers: list[Worker]) -> list[Worker]:
        """Bring servers up to date, some at once; returns those whose records could not be written."""
        left: list[Worker] = []
        for at in range(0, len(workers), AT_ONCE):
            some = workers[at : at + AT_ONCE]
            done = await asyncio.gather(*map(self.bring, some), return_exceptions=True)
            left += [worker for worker, error in zip(some, done, strict=True) if isinstance(error, Exception)]
        return left

    async def bring(self, worker: Worker) -> None:
        """Store that another policy is in effect for a server; nothing where that is the same as before."""
        with contextlib.suppress(NotFound):  # it was removed meanwhile
            await worker.update(self._context.policies.applied)
