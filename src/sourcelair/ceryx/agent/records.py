"""The lines of the journal: each a CRC-32 and a JSON object, and what a whole file of them says."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from sourcelair.ceryx.table import TableEntry
from sourcelair.errors import Unavailable
from sourcelair.telemetry import get_logger

_log = get_logger(__name__)

SCHEMA = 1
"""Version of the file. A newer one is refused."""

_decode = json.JSONDecoder().decode
"""What `json.loads` does, without a look at the encoding: files have very many lines."""

_FIELDS = tuple(item.name for item in fields(TableEntry))


@dataclass(slots=True)
class Loaded:
    """What a file held.

    `local` says of each live entry whether its target was on this machine when it was written down; an entry of an
    older version has no word of that. `withdrawn`: instances that had requests and lost their last route. `boot` is
    None where there was no file. `size` and `lines` count what was whole.
    """

    entries: dict[str, TableEntry] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    local: dict[str, bool] = field(default_factory=dict)
    registered: int | None = None
    withdrawn: list[str] = field(default_factory=list)
    boot: str | None = None
    size: int = 0
    lines: int = 0

    def take(self, record: Mapping[str, Any]) -> None:
        """Take in the record of an entry."""
        entry = TableEntry(**record["entry"])
        self.names.pop(entry.source, None)
        self.local.pop(entry.source, None)
        if entry.state == "deleted":
            self.entries.pop(entry.source, None)
            return
        self.entries[entry.source] = entry
        if "name" in record:
            self.names[entry.source] = record["name"]
        if "local" in record:
            self.local[entry.source] = record["local"]


def head_lines(boot: str, registered: int | None) -> list[bytes]:
    """Return how a file begins: its schema, the boot it belongs to, and the node's registration if there is one."""
    lines = [_line({"schema": SCHEMA, "boot": boot})]
    return lines if registered is None else [*lines, registration_line(registered)]


def registration_line(revision: int) -> bytes:
    """Return the line of a registration."""
    return _line({"registered": revision})


def entry_line(entry: TableEntry, name: str | None, local: bool | None) -> bytes:
    """Return the line of an entry.

    Args:
        entry: what NGINX is told.
        name: in its target that is looked up.
        local: whether its target is on this machine; None where it has none.
    """
    values = ((key, getattr(entry, key)) for key in _FIELDS)
    record: dict[str, Any] = {
        "entry": {key: value for key, value in values if value is not None and value is not False}
    }
    if name is not None:
        record["name"] = name
    if local is not None:
        record["local"] = local
    return _line(record)


def read_lines(path: Path, lines: Iterable[bytes]) -> Loaded:
    """Return what a file says. What follows a torn line is lost: it was never acknowledged.

    Args:
        path: of the file, for messages.
        lines: as the file gives them.

    Raises:
        Unavailable: a newer version wrote it.
    """
    loaded, seen = Loaded(), dict[str, None]()
    for line in lines:
        record = _parse(line)
        if record is None:
            _log.warning("journal_torn", path=str(path), at=loaded.size)
            break
        loaded.size += len(line)
        loaded.lines += 1
        if "schema" in record:
            if record["schema"] > SCHEMA:
                raise Unavailable(f"{path} was written by a newer version of SourceLair: run that one.")
            loaded.boot = record["boot"]
        elif "registered" in record:
            loaded.registered = record["registered"]
        else:
            loaded.take(record)
            if (instance := record["entry"].get("instance")) is not None:
                seen[instance] = None
    live = {entry.instance for entry in loaded.entries.values() if entry.state == "live"}
    loaded.withdrawn = [instance for instance in seen if instance not in live]
    return loaded


def _line(record: Mapping[str, Any]) -> bytes:
    data = json.dumps(record, separators=(",", ":")).encode()
    return b"%08x %s\n" % (zlib.crc32(data), data)


def _parse(line: bytes) -> dict[str, Any] | None:
    """Return a line's record; None if it is torn."""
    head, data, end = line[:9], line[9:-1], line[-1:]
    if end != b"\n" or head != b"%08x " % zlib.crc32(data):
        return None
    record: dict[str, Any] = _decode(data.decode())
    return record
