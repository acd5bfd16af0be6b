"""Who may write: one control plane at a time, by a key with a lease, which every write compares.

A lease alone fences nobody: whoever was paused while it ran out believes that it has it still. So each write to a store
of ours carries the revision of the key by which its writer became the owner; that of a successor is another one, and
etcd refuses the late write.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass

from sourcelair.errors import HistoryCompacted, LairError, Unavailable
from sourcelair.store.base import CompareFailed, LeaseNotFound
from sourcelair.store.etcd.store import EtcdStore
from sourcelair.telemetry import get_logger

_log = get_logger(__name__)

LEASE = 10.0
"""Seconds after the last renewal until somebody else may be the owner."""

KEY = "/owner"


@dataclass(frozen=True, slots=True)
class Owner:
    """Who is, or wants to be, the owner. Whoever holds an installation's data directory follows its last owner."""

    installation: str
    host: str
    process: int

    def __str__(self) -> str:
        return f"process {self.process} on {self.host}"


class Ownership:
    """The right to write.

    Args:
        store: where its key lies; it is not fenced itself.
        owner: who wants it.
        say: told, for a person, who has it while that is waited for.
    """

    def __init__(self, store: EtcdStore, owner: Owner, say: Callable[[str], None]) -> None:
        self._store = store
        self._owner = owner
        self._say = say
        self._lease = 0
        self._revision = 0

    async def acquire(self) -> int:
        """Wait until it is ours; return the revision that every write has to compare."""
        self._lease = await self._store.grant_lease(LEASE)
        value, told = json.dumps(asdict(self._owner)).encode(), None
        while True:
            page = await self._store.list(KEY)
            entry = page.entries[0] if page.entries else None
            holder = None if entry is None else Owner(**json.loads(entry.value))
            if holder is None or holder.installation == self._owner.installation:
                try:
                    expect = 0 if entry is None else entry.mod_revision
                    self._revision = await self._store.put(KEY, value, expect=expect, lease=self._lease)
                except CompareFailed:
                    continue
                except LeaseNotFound:
                    self._lease = await self._store.grant_lease(LEASE)
                    continue
                else:
                    return self._revision
            if holder != told:
                self._say(
                    f"Waiting: {holder} is the control plane of these stores. It is ours {LEASE:g} s after it ends"
                )
                told = holder
            await self._until_changed(page.revision)

    async def _until_changed(self, revision: int) -> None:
        """Wait until the key may have changed since a revision. Our own lease is kept meanwhile."""
        keeping = asyncio.create_task(self._keep())
        watch = self._store.watch(KEY, revision + 1)
        try:
            with contextlib.suppress(HistoryCompacted):
                await anext(aiter(watch), None)
        finally:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)

    async def _keep(self, *, ours: bool = False) -> None:
        while True:
            await self._store.renew_lease(self._lease)
            if ours:
                entry = await self._store.get(KEY)
                if entry is None or entry.mod_revision != self._revision:  # the lease alone says nothing of the key
                    raise LeaseNotFound("The key is somebody else's.")
            await asyncio.sleep(LEASE / 3)

    async def keep(self) -> None:
        """Keep it for as long as etcd answers.

        Raises:
            Unavailable: it was lost: somebody else may be the owner by now. Nothing of ours can be written any more.
        """
        while True:
            try:
                await self._keep(ours=True)
            except LeaseNotFound as error:
                raise Unavailable("Another control plane has taken over, or may have: see its log.") from error
            except LairError as error:
                _log.warning("lease_not_renewed", error=error.detail)
                await asyncio.sleep(LEASE / 10)

    async def release(self) -> None:
        """Let the next one have it at once."""
        await self._store.revoke_lease(self._lease)
