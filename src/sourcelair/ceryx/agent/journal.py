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
import os
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path

from sourcelair.ceryx.addresses import is_local, own_addresses
from sourcelair.ceryx.agent.durable import sync_directory, write_all, write_file
from sourcelair.ceryx.agent.entries import without_target
from sourcelair.ceryx.agent.records import Loaded, entry_line, head_lines, read_lines, registration_line
from sourcelair.ceryx.table import TableEntry
from sourcelair.telemetry import get_logger

_log = get_logger(__name__)

SLACK = 10_000
"""Lines beyond one for each route before the file is rewritten."""


_Note = tuple[str | None, bool]
"""A live entry's address, and whether it was this machine's when the entry was written down."""


class _Own:
    """This machine's addresses, read once where they are needed at all."""

    @cached_property
    def addresses(self) -> frozenset[str]:
        return own_addresses()


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
        self._held_is_known = True
        self._local: dict[str, _Note] = {}
        self._void = False
        self._voids = 0
        self._incomplete = False

    def load(self) -> Loaded:
        """Open the file and return what it holds. Blocks; call it once, in a thread.

        What follows a torn line is lost: it was never acknowledged.

        Raises:
            Unavailable: a newer version wrote it.
        """
        loaded = Loaded()
        with contextlib.suppress(FileNotFoundError), self._path.open("rb") as lines:
            loaded = read_lines(self._path, lines)
        self._lines = loaded.lines
        if loaded.boot != self._boot:
            self._void_local(loaded)
        self.registered = loaded.registered
        self._held = dict(loaded.entries)
        self._local = {
            source: (entry.address, loaded.local[source])
            for source, entry in loaded.entries.items()
            if source in loaded.local
        }
        try:
            if loaded.boot != self._boot:
                self._restart(self._content(loaded.entries.values(), loaded.names)[0])
            else:
                self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND)
                os.ftruncate(self._file, loaded.size)
                self._size = loaded.size
        except OSError as error:
            self._fell_behind(error)
        return loaded

    def _void_local(self, loaded: Loaded) -> None:
        """After a reboot, nothing that listened on this machine does any more.

        What was this machine's when it was written down is: addresses may come late at a boot, or be others.
        """
        own = own_addresses()
        loaded.withdrawn = []
        for source, entry in loaded.entries.items():
            if entry.state == "live" and (loaded.local.get(source) or is_local(entry.address, own)):
                loaded.entries[source] = without_target(entry)
                loaded.names.pop(source, None)
                loaded.local.pop(source, None)

    def _content(self, entries: Iterable[TableEntry], names: Mapping[str, str]) -> tuple[list[bytes], dict[str, _Note]]:
        """Return the lines of a whole file, and what they say of where targets are."""
        lines, own, notes = head_lines(self._boot, self.registered), _Own(), dict[str, _Note]()
        for entry in entries:
            if entry.state != "deleted":
                local = self._is_local(entry, own)
                lines.append(entry_line(entry, names.get(entry.source), local))
                if local is not None:
                    notes[entry.source] = (entry.address, local)
        return lines, notes

    def append(self, entries: Iterable[TableEntry], names: Mapping[str, str]) -> None:
        """Write down what NGINX is about to be told, as far as the file does not hold it already.

        Args:
            entries: in the order in which NGINX gets them.
            names: of targets that are looked up, by source.
        """
        lines, own = list[bytes](), _Own()
        for entry in entries:
            if self._held.get(entry.source) == entry:
                continue
            self._unsynced = self._unsynced or self._withdraws_elsewhere(entry, own)
            local = self._is_local(entry, own)
            lines.append(entry_line(entry, names.get(entry.source), local))
            if local is None:
                self._local.pop(entry.source, None)
            else:
                self._local[entry.source] = (entry.address, local)
            if entry.state == "deleted":
                self._held.pop(entry.source, None)
            else:
                self._held[entry.source] = entry
        if lines:
            self._write(lines)

    def _withdraws_elsewhere(self, entry: TableEntry, own: _Own) -> bool:
        """Tell whether this takes a target on another machine off its route.

        What counts is what the file holds, not what NGINX shows: after a reboot it is the file that brings it back. And
        an address that goes counts like an instance: when the withdrawal comes, the file holds no target any more.
        """
        if not self._held_is_known:
            return True
        held = self._held.get(entry.source)
        if held is None or held.state != "live" or held.instance is None:
            return False
        if (held.instance, held.address) == (entry.instance, entry.address):
            return False
        return not self._is_local(held, own)

    def _is_local(self, entry: TableEntry, own: _Own) -> bool | None:
        """Tell whether a target is on this machine, as it was noted, or as it is now; None where there is none."""
        if entry.state != "live":
            return None
        address, local = self._local.get(entry.source, (None, False))
        if address is not None and address == entry.address:
            return local
        return is_local(entry.address, frozenset()) or is_local(entry.address, own.addresses)

    def note_registered(self, revision: int) -> bool:
        """Write down the registration; return False if the file belongs to another, and so is void."""
        same = self.registered in {None, revision}
        if self.registered != revision:
            self.registered = revision
            self._write([registration_line(revision)])
        return same

    def void(self) -> None:
        """Empty the file: this node was removed, so what it knows binds nobody."""
        self.registered = None
        self._void = True
        self._voids += 1
        self._held, self._held_is_known = {}, True
        try:
            self._restart(head_lines(self._boot, self.registered))
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
            write_all(self._file, data)
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
        self._held, self._held_is_known = {}, False
        new, voids = self._path.with_suffix(".new"), self._voids

        def write() -> tuple[int, dict[str, _Note], dict[str, TableEntry]]:
            lines, notes = self._content(entries, names)
            content = b"".join(lines)
            write_file(new, content)
            return len(content), notes, {entry.source: entry for entry in entries if entry.state != "deleted"}

        try:
            size, notes, held = await asyncio.to_thread(write)
            if voids != self._voids:
                return False  # this node was removed meanwhile: what was written binds nobody
            self._take_over(new, size, len(entries), self._meanwhile)
        except OSError as error:
            _log.warning("journal_not_rewritten", path=str(self._path), error=str(error))
            return False
        finally:
            self._meanwhile = None
        self._incomplete = False
        self._held_is_known = True
        # What came meanwhile is newer, and little: what was written is not gone through once more.
        for source in self._held:
            notes.pop(source, None)
            if source in self._local:
                notes[source] = self._local[source]
        held.update(self._held)
        self._local, self._held = notes, held
        return True

    def _restart(self, lines: list[bytes]) -> None:
        # Not the name that a rewrite uses: one may be under way in its thread.
        content, fresh = b"".join(lines), self._path.with_suffix(".fresh")
        write_file(fresh, content)
        self._take_over(fresh, len(content), len(lines), [])

    def _take_over(self, new: Path, size: int, lines: int, meanwhile: list[bytes]) -> None:
        """Put the new file, with what came meanwhile, in the old one's place. Both are synced then."""
        file = os.open(new, os.O_WRONLY | os.O_APPEND)
        tail = b"".join(meanwhile)
        try:
            if tail:
                write_all(file, tail)
                os.fsync(file)
            new.replace(self._path)
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
            sync_directory(self._path.parent)
        except OSError as error:
            self._fell_behind(error)

    def close(self) -> None:
        """Close the file."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
