"""What this node's table shall hold, what NGINX is known to hold, and the difference. No input or output here.

A burst of changes leaves only the newest entry of each source. `applied` is the revision whose every change NGINX is
known to hold; acknowledgements rest on it and on `live_below`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Callable, Iterable, Mapping

from sourcelair.ceryx.agent.entries import deleted, differs, entry_of, resolved
from sourcelair.ceryx.agent.resolve import Resolution, Resolver
from sourcelair.ceryx.agent.wakers import Wakers
from sourcelair.ceryx.sources import depth
from sourcelair.ceryx.table import TableEntry
from sourcelair.client.ceryx import RouteChanges, StoredRoute
from sourcelair.pacing import STEP, in_steps, keep
from sourcelair.telemetry import get_logger

_log = get_logger(__name__)

FEW, MANY = 1_000, 50_000
"""Entries in one step of what is done with all of them, where each takes microseconds, and where it takes less."""


class NodeTable:
    """The table of one node.

    Args:
        resolver: knows the addresses of names in targets.
        wakers: are told which are named.
    """

    def __init__(self, resolver: Resolver, wakers: Wakers) -> None:
        self.wanted: dict[str, TableEntry] = {}
        self.names: dict[str, str] = {}
        self.shown: dict[str, TableEntry] = {}
        self.dirty: dict[str, None] = {}
        self.revision = -1
        """`wanted` holds every change up to this revision of the store; -1 before the first snapshot."""
        self.applied = -1
        self.sound = True
        """False once the store went back in time: NGINX keeps newer entries than the store has."""
        self.live: dict[str, set[str]] = {}
        """The instances that NGINX sends requests to, and for which sources."""
        self.withdrawn: dict[str, None] = {}
        """Instances that NGINX sent requests to before, oldest first; they may still have some in flight."""
        self.flows = True
        """Whether the bytes of open streams can be seen on this node."""
        self._resolver = resolver
        self._wakers = wakers
        self._is_blind = False
        self._users: dict[str, set[str]] = {}
        self.on_change: Callable[[], None] = lambda: None
        """Called whenever there is something to apply."""
        resolver.on_answer = self._name_resolved

    # What is wanted

    def want_route(self, route: StoredRoute, *, force: bool = False) -> None:
        """Want a route's entry, unless a newer one is wanted already (or whatever that is, with `force`)."""
        if route.settings.streams == "flow" and not self.flows and not self._is_blind:
            self._is_blind = True
            _log.warning("flows_not_seen", source=route.source, effect="open streams count as activity")
        entry, name = entry_of(route, flows=self.flows)
        self.want(entry, name, force=force)

    def want(self, entry: TableEntry, name: str | None = None, *, force: bool = False) -> None:
        """Want an entry; with the name that gives it its address, if that has to be looked up."""
        current = self.wanted.get(entry.source)
        if current is not None and current.revision > entry.revision and not force:
            return
        if self.names.get(entry.source) != name:
            self._use_name(entry.source, name)
        if name is not None:
            self._resolver.use(name, entry.revision)
            if known := self._resolver.answers.get(name):
                entry = resolved(entry, known.address, known.problem)
        shown = self.shown.get(entry.source)
        if shown == entry:
            self._hold(shown)  # the same one, not another like it: that takes half of the memory
            self.dirty.pop(entry.source, None)
        else:
            self._hold(entry)
            self.dirty[entry.source] = None
            self.on_change()

    def _hold(self, entry: TableEntry) -> None:
        before = self.wanted.get(entry.source)
        self.wanted[entry.source] = entry
        self._wakers.replace(before.waker if before else None, entry.waker)

    def want_again(self, sources: Iterable[str]) -> None:
        """Have these applied once more, as far as they are still wanted: there was no room for them before."""
        self.dirty |= {source: None for source in sources if source in self.wanted}

    async def order_by_depth(self) -> None:
        """Have the routes of paths applied before those of their hosts, the longest first.

        For a table that is being filled while visitors are served: a host that is there already has all of its paths.
        """
        deep: dict[int, list[str]] = {}
        async for source in in_steps(list(self.dirty), 5000):
            if segments := depth(source):
                deep.setdefault(segments, []).append(source)
        if deep:
            ordered = (source for segments in sorted(deep, reverse=True) for source in deep[segments])
            self.dirty = {source: None for source in ordered if source in self.dirty} | self.dirty

    async def load(self, entries: Mapping[str, TableEntry], names: Mapping[str, str], withdrawn: Iterable[str]) -> None:
        """Want what the file held; each name keeps its last address until a look-up says otherwise."""
        if len(entries) >= MANY:
            keep()
        async for source, entry in in_steps(entries.items()):
            name = names.get(source)
            if name is not None and entry.address is not None:
                self._resolver.answers[name] = Resolution(entry.address, None)
            self.want(entry, name)
        self.withdrawn = dict.fromkeys(withdrawn)

    def to_keep(self) -> list[TableEntry]:
        """Return what a file must hold to know every source that NGINX may hold."""
        return [
            shown if entry.state == "deleted" and (shown := self.shown.get(source)) else entry
            for source, entry in self.wanted.items()
        ]

    def _use_name(self, source: str, name: str | None) -> None:
        before = self.names.pop(source, None)
        if before is not None:
            users = self._users[before]
            users.discard(source)
            if not users:
                del self._users[before]
                self._resolver.drop(before)
        if name is not None:
            self.names[source] = name
            self._users.setdefault(name, set()).add(source)

    def _name_resolved(self, name: str) -> None:
        for source in list(self._users.get(name, ())):
            self.want(self.wanted[source], name)
        self.on_change()

    async def change(self, changes: RouteChanges) -> None:
        """Take in one event of the watch."""
        if changes.revision <= self.revision:
            return
        async for change in in_steps(changes.changes):
            if change.route is None:
                self.want(deleted(change.source, changes.revision))
            else:
                self.want_route(change.route)
        self.revision = changes.revision
        self.on_change()

    async def snapshot(self, routes: AsyncIterable[StoredRoute], revision: int) -> int:
        """Want exactly these routes, and return how many they are. What is the same is left alone, nothing is blanked.

        Args:
            routes: as they stood at the revision; each is wanted as soon as it comes. Where their end does not come,
                those that came are wanted, and it is not known what else is.
            revision: of the store.
        """
        held, fresh, sources = 0, 0, set[str]()
        async for entry in in_steps(list(self.shown.values()), MANY):
            held = max(held, entry.revision)
        self._check_revision(held, revision)
        async for route in routes:
            self.want_route(route, force=True)
            sources.add(self.wanted[route.source].source)
            fresh += route.source in self.dirty
            if len(sources) % STEP == 0:
                await asyncio.sleep(0)
            if fresh >= MANY:
                fresh = 0
                keep()
        async for source in in_steps(list(self.wanted), MANY):
            if source not in sources and self.wanted[source].state != "deleted":
                self.want(deleted(source, revision), force=True)
        self.revision = revision
        self.on_change()
        return len(sources)

    def _check_revision(self, held: int, revision: int) -> None:
        if held > revision:
            self.sound = False
            _log.error("store_went_back", revision=revision, held=held, remedy="restart NGINX")

    # What NGINX holds

    def show(self, entry: TableEntry) -> None:
        """Note that NGINX holds this entry now."""
        before = self.shown.pop(entry.source, None)
        if entry.state != "deleted":
            self.shown[entry.source] = entry
        wanted = self.wanted.get(entry.source)
        if wanted == entry:
            self.dirty.pop(entry.source, None)
            if entry.state == "deleted":
                del self.wanted[entry.source]
        self._move(before, entry)

    def _move(self, before: TableEntry | None, after: TableEntry) -> None:
        if before is not None and before.state == "live" and before.instance:
            sources = self.live.get(before.instance, set())
            sources.discard(before.source)
            if not sources:
                self.live.pop(before.instance, None)
                self.withdrawn[before.instance] = None
        if after.state == "live" and after.instance:
            self.live.setdefault(after.instance, set()).add(after.source)
            self.withdrawn.pop(after.instance, None)

    def _compare(self, found: TableEntry) -> None:
        """Decide what is wanted where NGINX holds more, or something newer, than is known of."""
        wanted = self.wanted.get(found.source)
        if wanted is not None and wanted.revision >= found.revision:
            return
        if self.revision < 0:
            self._hold(found)  # the file may lack it; the API's word is still to come
            return
        if wanted is None:
            self._hold(deleted(found.source, max(found.revision, self.revision)))
        self._check_revision(found.revision, self.revision if wanted is None else wanted.revision)

    async def show_all(self, found: Iterable[TableEntry], *, anew: bool) -> None:
        """Note all that NGINX holds, as it was read back, and find out what differs from what is wanted.

        Others may want something else meanwhile, but nobody else shows anything.

        Args:
            found: what NGINX holds.
            anew: it is another generation: what was in flight in the last one is over.
        """
        before = self.live
        self.shown, self.live, self.applied = {}, {}, -1
        async for at, entry in in_steps(enumerate(found, 1), FEW):
            if at % MANY == 0:
                keep()
            if entry.state == "deleted":
                continue
            self._compare(entry)
            held = self.wanted[entry.source]
            self.shown[entry.source] = entry if differs(held, entry) else held
            self._move(None, self.shown[entry.source])
        if anew:
            self.withdrawn = {}
        async for _ in in_steps(range(len(before)), FEW):  # bit by bit: to free it takes time, too
            instance, _sources = before.popitem()
            if not anew and instance not in self.live:
                self.withdrawn[instance] = None
        # A deletion too of what an NGINX never had: it must get into the journal, which may still hold the route.
        self.dirty = {}
        async for source in in_steps(list(self.wanted), FEW):
            if self.shown.get(source) != self.wanted.get(source):
                self.dirty[source] = None

    def live_below(self, instance: str, revision: int) -> bool:
        """Return whether NGINX sends an instance requests by an entry that is no newer than a revision."""
        return any(self.shown[source].revision <= revision for source in self.live.get(instance, ()))
