"""Our keys among etcd's: each has the store's prefix before it."""

from __future__ import annotations

from collections.abc import Iterable

from sourcelair.errors import Unavailable
from sourcelair.store.base import Entry, Event
from sourcelair.store.etcd import rpc_pb2 as rpc
from sourcelair.store.limits import MAX_INTEGER
from sourcelair.telemetry import get_logger

_log = get_logger(__name__)

NEVER = -1
"""A revision that no key ever has."""


class Keys:
    """The keys of one store.

    Args:
        prefix: of all its keys in etcd, without a last slash; a key of ours begins with one, or is put behind one.
    """

    def __init__(self, prefix: str) -> None:
        self._prefix = f"{prefix}:".encode()

    def of(self, key: str) -> bytes:
        """Return a key as etcd has it."""
        return self._prefix + key.encode()

    def ours(self, key: bytes) -> str:
        """Return a key of etcd as the store has it. Raises Unavailable: it is no text, so nobody of ours wrote it."""
        try:
            return key[len(self._prefix) :].decode()
        except UnicodeDecodeError as error:
            shown = key.decode(errors="backslashreplace")
            raise Unavailable(f"etcd has a key among ours that nobody of ours wrote, {shown}: delete it.") from error

    def range(self, prefix: str, start_after: str = "") -> tuple[bytes, bytes]:
        """Return the first key of a range, and the one after its last: all that begin with a prefix."""
        first = self.of(prefix)
        # Its last byte is never 0xff: UTF-8 has none, and our own prefix ends with a colon.
        end = first[:-1] + bytes([first[-1] + 1])
        return max(first, self.of(start_after) + b"\0") if start_after else first, end

    def condition(self, key: str, revision: int) -> rpc.Compare:
        """Return the condition that a key's last change is of a revision; 0 where there must be none."""
        return rpc.Compare(
            result=rpc.Compare.EQUAL,
            target=rpc.Compare.MOD,
            key=self.of(key),
            mod_revision=revision if 0 <= revision <= MAX_INTEGER else NEVER,
        )

    def entry(self, found: rpc.KeyValue) -> Entry:
        """Return a key with its value as the store gives it."""
        return Entry(
            self.ours(found.key),
            found.value,
            create_revision=found.create_revision,
            mod_revision=found.mod_revision,
            version=found.version,
            lease=found.lease or None,
        )

    def events(self, found: Iterable[rpc.Event]) -> Iterable[Event]:
        """Give events as the store has them, those of keys that nobody of ours wrote left out."""
        for event in found:
            try:
                key, revision = self.ours(event.kv.key), event.kv.mod_revision
            except Unavailable as error:
                _log.warning("foreign_key", error=error.detail)
                continue
            before = self.entry(event.prev_kv) if event.HasField("prev_kv") else None
            if event.type == rpc.Event.DELETE:
                yield Event("delete", key, revision, None, before)
            else:
                yield Event("put", key, revision, self.entry(event.kv), before)
