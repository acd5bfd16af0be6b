"""The agent, put together: everything in the background is owned by one task group."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

from sourcelair.ceryx.agent.answers import Answers
from sourcelair.ceryx.agent.durable import boot_id, next_session
from sourcelair.ceryx.agent.engine import Engine
from sourcelair.ceryx.agent.feed import Feed
from sourcelair.ceryx.agent.flows import are_visible
from sourcelair.ceryx.agent.journal import Journal
from sourcelair.ceryx.agent.reports import Reporter
from sourcelair.ceryx.agent.resolve import Lookup, Resolver, system_lookup
from sourcelair.ceryx.agent.sources import ApiSource, RouteSource
from sourcelair.ceryx.agent.table import NodeTable
from sourcelair.ceryx.agent.wakers import Wakers
from sourcelair.ceryx.table import StaleSession, TableControl
from sourcelair.client.ceryx import CeryxClient
from sourcelair.settings import Settings
from sourcelair.telemetry import get_logger

_log = get_logger(__name__)

FIRST_ANSWER = 1.0
"""Seconds that an empty table waits for the API before it is filled from the file."""

UPKEEP, LONGEST_UPKEEP = 1.0, 30.0
"""Seconds between looks at the journal's size and health, and the longest while the disk refuses."""


class Agent:
    """One proxy node's agent.

    Args:
        settings: `node` and `resolve_interval` are read.
        ceryx: the API; its owner closes it.
        source: of the routes; that API where it is None.
        true: set once the routes are to be followed: what the source has may be of before a reboot until then.
        control: the way into this node's NGINX.
        directory: of its own, for the session number and the last known routes; made where it is missing.
        waker: base URL of the waker that gets `waker_token`; None where there is none.
        waker_token: what the node shows to that waker, and to no other.
        lookup: looks up a name's addresses; tests bring their own.
    """

    def __init__(
        self,
        settings: Settings,
        ceryx: CeryxClient,
        control: TableControl,
        *,
        directory: Path,
        waker: str | None,
        waker_token: str | None,
        source: RouteSource | None = None,
        true: asyncio.Event | None = None,
        lookup: Lookup = system_lookup,
    ) -> None:
        self._node = settings.node
        self._ceryx = ceryx
        self._control = control
        self._directory = directory
        self._introduce = (settings.node, waker, waker_token)
        self._resolver = Resolver(settings.resolve_interval, lookup)
        self._waker_names = Resolver(settings.resolve_interval, lookup)
        self.wakers = Wakers(self._waker_names)
        self._source = source or ApiSource(ceryx)
        self._true = true
        self._engine: Engine | None = None
        self.boot_id = boot_id()

    @property
    def ready(self) -> bool:
        """Return whether visitors are served: NGINX's table is loaded, and NGINX answers."""
        return self._engine is not None and self._engine.connected

    async def run(self) -> None:
        """Keep this node as the API wants it. Returns only when a newer agent has taken over.

        Raises:
            Conflict: another node has this name.
        """
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        session = await asyncio.to_thread(next_session, self._directory / "session")
        journal = Journal(self._directory / "routes", self.boot_id)
        loaded = await asyncio.to_thread(journal.load)
        wakers = self.wakers
        table = NodeTable(self._resolver, wakers)
        engine = self._engine = Engine(self._control, session, table, journal, wakers=wakers, introduce=self._introduce)
        table.flows = await asyncio.to_thread(are_visible)
        table.on_change = wakers.on_change = engine.wake.set
        await table.load(loaded.entries, loaded.names, loaded.withdrawn)
        feed = Feed(self._source, self._node, table, journal)
        answers = Answers(self._ceryx, self._node, engine, table, journal)
        reporter = Reporter(self._ceryx, engine, table, node=self._node, session=session, resolver=self._resolver)
        reporter.is_asked = answers.asked

        def applied() -> None:
            reporter.wake.set()
            answers.changed()

        engine.on_applied = applied
        feed.on_snapshot = engine.known.set
        reporter.on_removed = feed.restart
        try:
            async with asyncio.TaskGroup() as tasks:
                for name, task in {
                    "resolver": self._resolver.run(),
                    "waker-names": self._waker_names.run(),
                    "engine": engine.run(),
                    "feed": self._follow(feed),
                    "reports": reporter.run(),
                    "asks": answers.listen(reporter),
                    "answers": answers.run(reporter),
                    "journal": _upkeep(journal, table),
                    "file": _fall_back(feed, engine, filled=bool(loaded.entries)),
                }.items():
                    tasks.create_task(task, name=f"agent-{name}")
        except* StaleSession:
            _log.error("agent_superseded", node=self._node, session=session, meaning="a newer agent took over")
        finally:
            engine.connected = False
            journal.close()

    async def _follow(self, feed: Feed) -> None:
        if self._true is not None:
            await self._true.wait()
        await feed.run()


async def _fall_back(feed: Feed, engine: Engine, *, filled: bool) -> None:
    """Let an empty table be filled from the file, where there is one and the API does not answer soon."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(FIRST_ANSWER):
            await feed.tried.wait()
    if filled and not feed.voided:
        engine.known.set()


async def _upkeep(journal: Journal, table: NodeTable) -> None:
    """Rewrite the file when it has grown, and when the disk has room again."""
    pause = UPKEEP
    while True:
        await asyncio.sleep(pause)
        if not journal.wants_rewrite(len(table.wanted)) or await journal.rewrite(table.to_keep(), dict(table.names)):
            pause = UPKEEP
        else:
            pause = min(pause * 2, LONGEST_UPKEEP)
