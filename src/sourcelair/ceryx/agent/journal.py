"""The last known routes, on disk: what NGINX is filled from while the API is down, and the proof behind each promise.

One file of lines, each a CRC-32 and a JSON object: a head with the schema and the machine's boot id, then entries in
the order in which NGINX got them; the newest of a source counts. A line is in the file (the page cache: it survives
the agent's death, not the machine's) *before* NGINX is told. Before a withdrawal of a target on another machine is
acknowledged the file is synced: after a reboot local targets are void anyway, and others are not.

A disk that is full stops nothing but acknowledgements. The file is rewritten once it has room again.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from sourcelair.ceryx.addresses import is_local, own_addresses
from sourcelair.ceryx.agent.entries import without_target
from sourcelair.ceryx.table import TableEntry
from sourcelair.errors import Unavailable
from sourcelair.telemetry import get_logger

_log = get_logger(__name__)

SCHEMA = 1
"""Version of the file. A newer one is refused."""

SLACK = 10_000
"""Lines beyond one for each route before the file is rewritten."""

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_FIELDS = tuple(item.name for item in fields(TableEntry))


def boot_id() -> str:
    """Return what is new at every boot of this machine."""
    return _BOOT_ID.read_text().strip()


@dataclass(slots=True)
class Loaded:
    """What a file held. `withdrawn`: instances that had requests and lost their last route."""

    entries: dict[str, TableEntry] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    registered: int | None = None
    withdrawn: list[str] = field(default_factory=list)


def _line(record: Mapping[str, Any]) -> bytes:
    data = json.dumps(record, separators=(",", ":")).encode()
    return b"%08x %s\n" % (zlib.crc32(data), data)


def _entry_line(entry: TableEntry, name: str | None) -> bytes:
    values = ((key, getattr(entry, key)) for key in _FIELDS)
    record = {key: value for key, value in values if value is not None and value is not False}
    return _line({"entry": record} if name is None else {"entry": record, "name": name})


def _parse(line: bytes) -> dict[str, Any] | None:
    """Return a line's record; None if it is torn."""
    checksum, _, data = line.rstrip(b"\n").partition(b" ")
    if not line.endswith(b"\n") or checksum != b"%08x" % zlib.crc32(data):
        return None
    record: dict[str, Any] = json.loads(data)
    return record


class Journal:
    """The file of one node's routes.

    Args:
        path: of the file; its directory exists.
        boot: this boot's id.
    """

    def __init__(self, path: Path, boot: str) -> None:
        self.behind = False
        """The file lacks what NGINX was told: nothing may be acknowledged."""
        self.registered: int | None = None
        self._path = path
        self._boot = boot
        self._file = -1
        self._size = 0
        self._lines = 0
        self._unsynced = True
        self._meanwhile: list[bytes] | None = None
        self._held: dict[str, TableEntry] = {}
        self._void = False
        self._incomplete = False

    def load(self) -> Loaded:
        """Open the file and return what it holds. Blocks; call it once, in a thread.

        What follows a torn line is lost: it was never acknowledged.

        Raises:
            Unavailable: a newer version wrote it.
        """
        loaded = Loaded()
        seen = dict[str, None]()
        good, boot = 0, None
        with contextlib.suppress(FileNotFoundError), self._path.open("rb") as lines:
            for line in lines:
                record = _parse(line)
                if record is None:
                    _log.warning("journal_torn", path=str(self._path), at=good)
                    break
                good += len(line)
                self._lines += 1
                if "schema" in record:
                    if record["schema"] > SCHEMA:
                        raise Unavailable(f"{self._path} was written by a newer version of SourceLair: run that one.")
                    boot = record["boot"]
                elif "registered" in record:
                    loaded.registered = record["registered"]
                else:
                    _take(loaded, record, seen)
        live = {entry.instance for entry in loaded.entries.values() if entry.state == "live"}
        loaded.withdrawn = [instance for instance in seen if instance not in live]
        if boot != self._boot:
            self._void_local(loaded)
        self.registered = loaded.registered
        self._held = dict(loaded.entries)
        try:
            if boot != self._boot:
                self._restart(self._content(loaded.entries.values(), loaded.names))
            else:
                self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND)
                os.ftruncate(self._file, good)
                self._size = good
        except OSError as error:
            self._fell_behind(error)
        return loaded

    def _void_local(self, loaded: Loaded) -> None:
        """After a reboot, nothing that listened on this machine does any more."""
        own = own_addresses()
        loaded.withdrawn = []
        for source, entry in loaded.entries.items():
            if entry.state == "live" and is_local(entry.address, own):
                loaded.entries[source] = without_target(entry)
                loaded.names.pop(source, None)

    def _content(self, entries: Iterable[TableEntry], names: Mapping[str, str]) -> list[bytes]:
        lines = [_line({"schema": SCHEMA, "boot": self._boot})]
        if self.registered is not None:
            lines.append(_line({"registered": self.registered}))
        lines += [_entry_line(entry, names.get(entry.source)) for entry in entries if entry.state != "deleted"]
        return lines

    def append(self, entries: Iterable[TableEntry], names: Mapping[str, str], *, urgent: bool) -> None:
        """Write down what NGINX is about to be told, as far as the file does not hold it already.

        Args:
            entries: in the order in which NGINX gets them.
            names: of targets that are looked up, by source.
            urgent: one of them withdraws a target on another machine.
        """
        self._unsynced = self._unsynced or urgent
        lines = list[bytes]()
        for entry in entries:
            if self._held.get(entry.source) == entry:
                continue
            lines.append(_entry_line(entry, names.get(entry.source)))
            if entry.state == "deleted":
                self._held.pop(entry.source, None)
            else:
                self._held[entry.source] = entry
        if lines:
            self._write(lines)

    def note_registered(self, revision: int) -> bool:
        """Write down the registration; return False if the file belongs to another, and so is void."""
        same = self.registered in {None, revision}
        if self.registered != revision:
            self.registered = revision
            self._write([_line({"registered": revision})])
        return same

    def void(self) -> None:
        """Empty the file: this node was removed, so what it knows binds nobody."""
        self.registered = None
        self._void = True
        self._held = {}
        try:
            self._restart(self._content([], {}))
        except OSError as error:
            self._fell_behind(error)

    def begin_again(self) -> None:
        """The node has registered anew and knows the routes as they are now: they are written down whole."""
        self._void = False
        self._incomplete = True

    def _write(self, lines: list[bytes]) -> None:
        if self._meanwhile is not None:
            self._meanwhile += lines
        if self.behind:
            return
        data = b"".join(lines)
        try:
            _write_all(self._file, data)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, self._size)
            self._fell_behind(error)
            return
        self._size += len(data)
        self._lines += len(lines)

    def _fell_behind(self, error: OSError) -> None:
        if not self.behind:
            _log.error("journal_failed", path=str(self._path), error=str(error), effect="stops are delayed")
        self.behind = True

    async def sync(self) -> bool:
        """Make sure that all that was appended survives the machine; return False if the disk refuses."""
        if self._unsynced and not self.behind:
            self._unsynced = False
            file = os.dup(self._file)
            try:
                await asyncio.to_thread(os.fsync, file)
            except OSError as error:
                self._fell_behind(error)
            finally:
                os.close(file)
            if self.behind:
                self._unsynced = True
        return not self.behind

    def wants_rewrite(self, routes: int) -> bool:
        """Return whether the file has grown far beyond its content, or lacks something."""
        return not self._void and (self.behind or self._incomplete or self._lines > 2 * routes + SLACK)

    async def rewrite(self, entries: list[TableEntry], names: dict[str, str]) -> bool:
        """Replace the file by one that holds just these entries, and what is appended meanwhile.

        Returns:
            False if the disk refuses; the old file goes on.
        """
        self._meanwhile = []
        self._held = {}
        try:
            content = await asyncio.to_thread(lambda: b"".join(self._content(entries, names)))
            await asyncio.to_thread(_write_file, self._new, content)
            self._take_over(len(content), len(entries), self._meanwhile)
        except OSError as error:
            _log.warning("journal_not_rewritten", path=str(self._path), error=str(error))
            return False
        finally:
            self._meanwhile = None
        self._incomplete = False
        self._held = {entry.source: entry for entry in entries if entry.state != "deleted"} | self._held
        return True

    def _restart(self, lines: list[bytes]) -> None:
        content = b"".join(lines)
        _write_file(self._new, content)
        self._take_over(len(content), len(lines), [])

    @property
    def _new(self) -> Path:
        return self._path.with_suffix(".new")

    def _take_over(self, size: int, lines: int, meanwhile: list[bytes]) -> None:
        """Put the new file, with what came meanwhile, in the old one's place. Both are synced then."""
        file = os.open(self._new, os.O_WRONLY | os.O_APPEND)
        tail = b"".join(meanwhile)
        try:
            if tail:
                _write_all(file, tail)
                os.fsync(file)
            self._new.replace(self._path)
        except OSError:
            os.close(file)
            raise
        if self._file >= 0:
            os.close(self._file)
        self._file = file
        self._size = size + len(tail)
        self._lines = lines + len(meanwhile)
        self.behind = False
        try:
            _sync_directory(self._path.parent)
        except OSError as error:
            self._fell_behind(error)

    def close(self) -> None:
        """Close the file."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def _take(loaded: Loaded, record: Mapping[str, Any], seen: dict[str, None]) -> None:
    entry = TableEntry(**record["entry"])
    if entry.instance is not None:
        seen[entry.instance] = None
    loaded.names.pop(entry.source, None)
    if entry.state == "deleted":
        loaded.entries.pop(entry.source, None)
        return
    loaded.entries[entry.source] = entry
    if "name" in record:
        loaded.names[entry.source] = record["name"]


def _write_all(file: int, data: bytes) -> None:
    if os.write(file, data) != len(data):
        raise OSError(errno.ENOSPC, "the disk took only a part of it")


def _write_file(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        path.chmod(0o600)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_directory(path: Path) -> None:
    directory = os.open(path, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def next_session(path: Path) -> int:
    """Return this start's session number, one more than the last, after writing it down durably. Blocks."""
    try:
        session = int(path.read_text()) + 1
    except (FileNotFoundError, ValueError):
        session = 1
    try:
        new = path.with_suffix(".new")
        _write_file(new, str(session).encode())
        new.replace(path)
        _sync_directory(path.parent)
    except OSError as error:
        _log.error("session_not_written", path=str(path), error=str(error))
    return session
