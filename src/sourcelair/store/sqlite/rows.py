"""Rows of `changes` and the entries that they stand for."""

from __future__ import annotations

from typing import Any

from sourcelair.store.base import Entry

COLUMNS = "key, value, create_revision, revision, version, lease"
"""In the order of `Entry`'s fields, so that a row is an entry."""

DELETED = 0
"""The version of a change that removed its key, as in etcd."""

REVISION = "SELECT max(ifnull((SELECT max(revision) FROM changes), 0), (SELECT revision FROM compaction))"
"""The last change may be a deletion that was compacted since: then the compaction has its revision, or a later one."""


def qualified(table: str) -> str:
    """Return COLUMNS of one table in a join."""
    return ", ".join(f"{table}.{column}" for column in COLUMNS.split(", "))


def entry(row: tuple[Any, ...] | None) -> Entry | None:
    """Return the row's entry; None for no row and for a deletion."""
    if row is None or not row[4]:  # version: NULL where an outer join found nothing, 0 for a deletion
        return None
    return Entry(*row)
