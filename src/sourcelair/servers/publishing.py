"""Writing the routes of servers: always derived from the state, always conditional on the revision that was known.

A write that was on its way during a crash, or whose answer was lost, carries an older revision: it lands before ours,
and is overwritten, or it does not land at all. It never undoes a later one.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Container, Iterator, Sequence

from sourcelair.client.ceryx import CeryxClient, Route, RouteSettings, RouteWrite
from sourcelair.errors import Conflict, LairError, NotFound, PreconditionFailed
from sourcelair.servers.acting import until_sure
from sourcelair.servers.records import InstanceRecord
from sourcelair.store.base import Store
from sourcelair.telemetry import get_logger

_log = get_logger(__name__)

MANAGER = "sourcelair-api"

FIRST_PAUSE, LONGEST_PAUSE = 0.02, 2.0
"""Seconds until Ceryx is asked again where it did not answer."""

AT_ONCE = 1000
"""Routes in one batch."""

MOST_BYTES = 4 << 20
"""Bytes of them as JSON: Ceryx refuses what is several times as long, however often it is asked."""


class Publisher:
    """The routes of all servers.

    Args:
        ceryx: the API.
        waker: URL of the waker that all these routes name.
        store: of the servers: whoever may write there may write these routes.
    """

    def __init__(self, ceryx: CeryxClient, waker: str, store: Store) -> None:
        self._ceryx = ceryx
        self._waker = waker
        self._store = store
        self._revisions: dict[str, int] = {}
        self.loaded = asyncio.Event()
        """Set by recovery once the revisions of all managed routes are known, and those of no server are gone."""

    async def load(self) -> set[str]:
        """Read the revisions of our routes, waiting for Ceryx as long as it takes. Returns their sources."""
        pause = FIRST_PAUSE
        while True:
            try:
                routes, _ = await self._ceryx.list_routes(MANAGER)
                break
            except LairError as error:
                _log.warning("ceryx_does_not_answer", error=error.detail)
                await asyncio.sleep(pause)
                pause = min(pause * 2, LONGEST_PAUSE)
        self._revisions = {route.source: route.revision for route in routes if route.managed_by == MANAGER}
        return set(self._revisions)

    async def check_free(self, hosts: Sequence[str]) -> None:
        """Refuse hosts whose routes somebody else made. Raises Conflict."""
        for host in hosts:
            if host in self._revisions:
                continue
            try:
                route = await self._ceryx.get_route(host)
            except NotFound:
                continue
            if route.managed_by != MANAGER:
                raise Conflict(f"{host} has a route already that is not a server's: delete that first.", host=host)

    @contextlib.asynccontextmanager
    async def made(self, hosts: Sequence[str], settings: RouteSettings, served: Container[str]) -> AsyncIterator[int]:
        """Make routes without a target, for a record that is about to be stored; gives their revision.

        They come first: a record whose routes can't be made (the proxies' tables are full) could never be published,
        and so never be stopped or removed either. After a crash between the two, those of no server are removed.

        Args:
            hosts: that have no routes yet.
            settings: of these routes.
            served: the hosts of all servers; those that are not among them in the end are removed again.

        Raises:
            Conflict: somebody else made a route for one of them.
            LairError: they can't be written.
        """
        if not hosts:
            yield 0
            return
        await self.loaded.wait()
        await self.check_free(hosts)
        revision = await self.publish(hosts, None, settings, insist=False)
        try:
            yield revision
        finally:
            if unused := [host for host in hosts if host not in served]:
                with contextlib.suppress(LairError):  # the next start removes what is no server's
                    await self.remove(unused, insist=False)

    def _route(self, host: str, instance: InstanceRecord | None, settings: RouteSettings) -> Route:
        target = None
        if instance is not None and instance.host is not None:
            address = f"[{instance.host}]" if ":" in instance.host else instance.host
            target = f"http://{address}:{instance.port}"
        return Route(
            source=host,
            target=target,
            settings=settings,
            waker=self._waker,
            instance=instance.id if instance is not None and target is not None else None,
            managed_by=MANAGER,
        )

    async def publish(
        self,
        hosts: Sequence[str],
        instance: InstanceRecord | None,
        settings: RouteSettings,
        *,
        insist: bool = True,
    ) -> int:
        """Write the routes of one server, and return the revision at which they stand.

        Args:
            hosts: of the server.
            instance: whose target is published; None withdraws.
            settings: of these routes, with a target or without.
            insist: go on until they are written: what comes next is true only then.

        Raises:
            LairError: they can't be written, and `insist` is false.
        """
        return await self.publish_all([(host, instance, settings) for host in hosts], insist=insist)

    async def publish_all(
        self, routes: Sequence[tuple[str, InstanceRecord | None, RouteSettings]], *, insist: bool = True
    ) -> int:
        """Write routes of many servers, as `publish` does: host, instance and settings of each.

        It is one transaction but where their settings are very long; the revision is the last one's.
        """
        written = [(host, self._route(host, instance, settings)) for host, instance, settings in routes]
        revision = 0
        for batch in _batches(written):
            revision = await self._write(batch, insist=insist)
        return revision

    def revision(self, hosts: Sequence[str]) -> int:
        """Return the newest known revision of these routes."""
        return max((self._revisions.get(host, 0) for host in hosts), default=0)

    async def withdraw_all(self, hosts: Sequence[tuple[str, RouteSettings]]) -> int:
        """Write routes without a target, many at once; returns the last revision."""
        revision = 0
        for at in range(0, len(hosts), AT_ONCE):
            some = hosts[at : at + AT_ONCE]
            revision = await self.publish_all([(host, None, settings) for host, settings in some])
        return revision

    async def remove(self, hosts: Sequence[str], *, insist: bool = True) -> int:
        """Delete routes; returns the revision of the deletion.

        Raises:
            LairError: they can't be deleted, and `insist` is false.
        """
        revision = await self._write([(host, None) for host in hosts], insist=insist)
        for host in hosts:
            self._revisions.pop(host, None)
        return revision

    async def _write(self, routes: Sequence[tuple[str, Route | None]], *, insist: bool = True) -> int:
        pause = FIRST_PAUSE
        while True:
            writes = [
                RouteWrite(source=host, route=route, expect=self._revisions.get(host, 0)) for host, route in routes
            ]
            try:
                result = await self._ceryx.batch(writes, managed_by=MANAGER)
            except PreconditionFailed as error:
                await until_sure(self._store)
                # Ours alone are these routes: an earlier write of ours landed without telling us.
                if "source" in error.extra:
                    self._revisions[error.extra["source"]] = int(error.extra["revision"])
                    if not self._revisions[error.extra["source"]]:
                        del self._revisions[error.extra["source"]]
                continue
            except LairError as error:
                if not insist:
                    raise
                _log.warning("routes_not_written", hosts=[host for host, _ in routes][:5], error=error.detail)
                await asyncio.sleep(pause)
                pause = min(pause * 2, LONGEST_PAUSE)
                continue
            for host, route in routes:
                if route is not None:
                    self._revisions[host] = result.revision
            return result.revision


def _batches(routes: list[tuple[str, Route]]) -> Iterator[list[tuple[str, Route]]]:
    """Give routes in as few batches as Ceryx takes."""
    batch, size = list[tuple[str, Route]](), 0
    for host, route in routes:
        bytes_of_it = len(route.model_dump_json()) if len(routes) > 1 else 0
        if batch and size + bytes_of_it > MOST_BYTES:
            yield batch
            batch, size = [], 0
        batch.append((host, route))
        size += bytes_of_it
    if batch:
        yield batch
