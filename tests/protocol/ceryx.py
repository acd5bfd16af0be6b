"""Ceryx's API in the model: a durable store of routes, and questions to nodes that are kept in memory only."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from tests.protocol.actors import Refused


@dataclass(frozen=True)
class Route:
    """A route, and equally an entry of a node's table: without an instance it has no target."""

    source: str
    instance: str | None
    port: int | None
    revision: int


class Counts(NamedTuple):
    """One reading of an instance. `streams` are those in flight, `idle_streams` those that keep nothing awake."""

    in_flight: int
    streams: int
    idle_streams: int
    total: int


NOTHING = Counts(0, 0, 0, 0)


@dataclass(frozen=True)
class Acknowledgement:
    """A node's promise for a withdrawal, with the counts that were read after it was applied."""

    generation: int
    instance: str
    revision: int
    counts: Counts


@dataclass(frozen=True)
class Answer:
    """What is known of one withdrawal. `totals` are those of the nodes that acknowledged, by node and generation."""

    acknowledged: bool
    in_flight: int
    streams: int
    idle_streams: int
    totals: dict[tuple[str, int], int]


@dataclass
class Report:
    """An agent's heartbeat: counts of every instance that its NGINX knows, as last read."""

    generation: int
    counts: dict[str, Counts] = field(default_factory=dict)


class Ceryx:
    """The routes are durable; asks, acknowledgements and reports are not."""

    def __init__(self, mutation: str | None = None) -> None:
        self.mutation = mutation
        self.up = True
        self.incarnation = 1
        self.revision = 0
        self.routes: dict[str, Route] = {}
        self.history: list[Route] = []
        self.registered: set[str] = set()
        self.asks: dict[str, int] = {}
        self.acknowledgements: dict[tuple[str, str], Acknowledgement] = {}
        self.reports: dict[str, Report] = {}

    def crash(self) -> None:
        """Lose all that is not stored."""
        self.up = False
        self.incarnation += 1
        self.asks, self.acknowledgements, self.reports = {}, {}, {}

    def write(self, source: str, instance: str | None, port: int | None, expect: int | None) -> Route:
        """Write a route; with `expect`, only over that revision. Raises Refused."""
        now = self.routes[source].revision if source in self.routes else 0
        if expect is not None and expect != now:
            raise Refused(f"{source} is at {now}")
        self.revision += 1
        route = Route(source, instance, port, self.revision)
        self.routes[source] = route
        self.history.append(route)
        return route

    def register(self, node: str) -> None:
        """Make a node's word needed for every withdrawal, from now on."""
        self.registered.add(node)

    def snapshot(self) -> tuple[dict[str, Route], int]:
        """Return all routes, and the revision at which they were read."""
        return dict(self.routes), self.revision

    def change_after(self, revision: int) -> Route | None:
        """Return the next change of the watch."""
        return self.history[revision] if revision < len(self.history) else None

    def ask(self, instance: str, revision: int) -> Answer:
        """Pass the question to every registered node, and say what they have answered so far."""
        self.asks[instance] = max(revision, self.asks.get(instance, 0))
        found = {node: self.acknowledgements.get((node, instance)) for node in self.registered}
        # One for a later withdrawal proves this one too; one for an earlier withdrawal proves nothing.
        needed = 0 if self.mutation == "any acknowledgement counts" else revision
        good = {node: ack for node, ack in found.items() if ack is not None and ack.revision >= needed}
        return Answer(
            acknowledged=good.keys() == found.keys(),
            in_flight=sum(ack.counts.in_flight for ack in good.values()),
            streams=sum(ack.counts.streams for ack in good.values()),
            idle_streams=sum(ack.counts.idle_streams for ack in good.values()),
            totals={(node, ack.generation): ack.counts.total for node, ack in good.items()},
        )

    def acknowledge(self, node: str, ack: Acknowledgement) -> None:
        """Take an answer. Once withdrawn, less in flight is always the later truth, whatever order messages take.

        So is a larger total where as much is in flight: bytes have flown in a stream.
        """
        before = self.acknowledgements.get((node, ack.instance))
        if before is not None and before.generation == ack.generation:
            if before.revision > ack.revision:
                return
            older = (ack.counts.in_flight, -ack.counts.total) > (before.counts.in_flight, -before.counts.total)
            if before.revision == ack.revision and older:
                return
        if node in self.reports and self.reports[node].generation > ack.generation:
            return
        self.acknowledgements[(node, ack.instance)] = ack

    def report(self, node: str, report: Report) -> None:
        """Take a heartbeat; a new NGINX voids what its predecessor acknowledged."""
        if node in self.reports and self.reports[node].generation > report.generation:
            return
        self.reports[node] = report
        for key, ack in list(self.acknowledgements.items()):
            if key[0] == node and ack.generation < report.generation:
                del self.acknowledgements[key]

    def activity(self, instance: str) -> tuple[Counts, dict[tuple[str, int], int]]:
        """Return all counts together, and the totals by node and generation, as last reported."""
        counts = {
            (node, report.generation): report.counts.get(instance, NOTHING) for node, report in self.reports.items()
        }
        together = Counts(*(sum(column) for column in zip(NOTHING, *counts.values(), strict=True)))
        return together, {key: count.total for key, count in counts.items()}
