"""Who may act for a service: one process at a time, by a key with a lease, which every write compares.

That key is the service's *seat*. A lease alone fences nobody: whoever was paused while it ran out believes that it has
it still. So each write to a store of ours carries the revision of the key by which its writer took the seat; that of a
successor is another one, and etcd refuses the late write.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from sourcelair.errors import HistoryCompacted, LairError, Unavailable
from sourcelair.settings import TEST_PREFIX
from sourcelair.store.base import Compare, CompareFailed, Entry, LeaseNotFound, Put
from sourcelair.store.etcd.store import EtcdStore
from sourcelair.telemetry import get_logger

_log = get_logger(__name__)

LEASE = float(os.environ.get(f"{TEST_PREFIX}LEASE") or 10.0)
"""Seconds after the last renewal until somebody else may take the seat; tests have a shorter one."""

SEATS = "/seats/"


def seat_key(service: str) -> str:
    """Return the key of a service's seat."""
    return SEATS + service


@dataclass(frozen=True, slots=True)
class Holder:
    """Who has a seat, or wants one.

    `installation` names what only one process at a time can be, such as a locked data directory: its next process
    follows the last one at once. `url` is where the APIs of this process answer.
    """

    installation: str
    host: str
    process: int
    url: str = ""

    def __str__(self) -> str:
        return f"process {self.process} on {self.host}"


def holder_of(entry: Entry) -> Holder:
    """Return who has the seat of an entry."""
    return Holder(**json.loads(entry.value))


class Claim:
    """The right to act for some services: all of them, or none.

    Args:
        store: where the seats lie; it is not fenced itself.
        holder: who wants them.
        services: whose seats.
        say: told, for a person, who has one of them while that is waited for.
    """

    def __init__(self, store: EtcdStore, holder: Holder, services: Sequence[str], say: Callable[[str], None]) -> None:
        self._store = store
        self._holder = holder
        self._keys = [seat_key(service) for service in services]
        self._say = say
        self._lease = 0
        self._revision = 0

    async def acquire(self) -> int:
        """Wait until they are ours; return the revision of their keys, which every write has to compare."""
        self._lease = await self._store.grant_lease(LEASE)
        value, told = json.dumps(asdict(self._holder)).encode(), None
        while True:
            page = await self._store.list(SEATS)
            found = {entry.key: entry for entry in page.entries if entry.key in self._keys}
            holders = [holder_of(found[key]) for key in self._keys if key in found]
            others = [holder for holder in holders if holder.installation != self._holder.installation]
            if not others:
                compares = [Compare(key, found[key].mod_revision if key in found else 0) for key in self._keys]
                try:
                    self._revision = await self._store.transact(
                        compares, [Put(key, value, self._lease) for key in self._keys]
                    )
                except CompareFailed:
                    continue
                except LeaseNotFound:
                    self._lease = await self._store.grant_lease(LEASE)
                    continue
                else:
                    return self._revision
            if others[0] != told:
                told = others[0]
                self._say(f"Standing by: {told} is at work. It is our turn {LEASE:g} s after it ends")
            await self._until_changed(page.revision)

    async def _until_changed(self, revision: int) -> None:
        """Wait until a seat may have changed since a revision. Our own lease is kept meanwhile."""
        keeping = asyncio.create_task(self._keep())
        watch = self._store.watch(SEATS, revision + 1)
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
                for key in self._keys:
                    entry = await self._store.get(key)
                    if entry is None or entry.mod_revision != self._revision:  # the lease alone says nothing of the key
                        raise LeaseNotFound("The seat is somebody else's.")
            await asyncio.sleep(LEASE / 3)

    async def keep(self) -> None:
        """Keep them for as long as etcd answers.

        Raises:
            Unavailable: one was lost: somebody else may act by now. Nothing of ours can be written any more.
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
        """Let the next one have them at once."""
        await self._store.revoke_lease(self._lease)
