"""Entries for which NGINX had no room: told to the API, so that nobody counts them as served, and tried again.

They do not hold back the revision that is reported as applied: the writers of all other routes must not wait for them.
Nothing is promised of them either, since what NGINX shows of their sources is known.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import islice

from sourcelair.ceryx.table import TableEntry
from sourcelair.client.ceryx import Refusal

RETRY = 1.0
"""Seconds between tries. A deletion frees its room only when its tombstone goes, and nothing tells of that."""

MOST_TRIED = 20
"""Refusals in one round after which new sources are refused without asking NGINX for each."""

MOST_REPORTED = 1000
"""Refusals that are reported; where there are more, nothing from the next one on is reported as applied."""


class Refusals:
    """The refused entries of one node, by source; the one that was tried longest ago comes first."""

    def __init__(self) -> None:
        self._revisions: dict[str, int] = {}
        self._due = 0.0

    def __contains__(self, source: str) -> bool:
        return source in self._revisions

    def __len__(self) -> int:
        return len(self._revisions)

    def __iter__(self) -> Iterator[str]:
        return iter(self._revisions)

    def is_of(self, entry: TableEntry | None) -> bool:
        """Return whether this is what was refused, and nothing newer."""
        return entry is not None and self._revisions.get(entry.source) == entry.revision

    def clear(self) -> None:
        """Forget all: NGINX is another one."""
        self._revisions.clear()

    def refuse(self, entry: TableEntry) -> bool:
        """Note a refusal; return whether it is news."""
        news = self._revisions.pop(entry.source, None) != entry.revision
        self._revisions[entry.source] = entry.revision
        return news

    def settle(self, source: str) -> None:
        """NGINX has taken this source's entry."""
        self._revisions.pop(source, None)

    def hurry(self) -> None:
        """Something was deleted: try again at once."""
        self._due = 0.0

    def take_due(self, now: float, room: int) -> list[str]:
        """Return the sources to try again now, few where there is hardly any room.

        Args:
            now: monotonic seconds.
            room: routes that NGINX says it has room for.
        """
        if not self._revisions or now < self._due:
            return []
        self._due = now + RETRY
        return list(islice(self._revisions, max(1, room)))

    def report(self, applied: int, wanted: Collection[str]) -> tuple[list[Refusal], int]:
        """Return what to report: the refused, oldest first, and the revision up to which nothing else is missing.

        Args:
            applied: the revision whose every change NGINX holds, but for these.
            wanted: the sources that the node has a use for at all.
        """
        found = sorted((revision, source) for source, revision in self._revisions.items() if source in wanted)
        if len(found) > MOST_REPORTED:
            applied = min(applied, found[MOST_REPORTED][0] - 1)
        return [Refusal(source=source, revision=revision) for revision, source in found[:MOST_REPORTED]], applied
