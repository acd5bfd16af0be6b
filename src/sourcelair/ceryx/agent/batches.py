"""How much NGINX is told or asked in one control call: it serves nothing else in that worker meanwhile."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

BATCH = 500
"""Entries, sources or instances in one control call."""


def batches(items: Sequence[str]) -> Iterator[Sequence[str]]:
    """Give items in parts that go into one call each."""
    for at in range(0, len(items), BATCH):
        yield items[at : at + BATCH]
