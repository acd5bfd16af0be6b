"""The client of NGINX's control socket: what the agent uses to change and read the route table.

HTTP over a Unix socket, one connection a call, so nothing has to be kept or closed; the bodies are lines of fields
with tabs between them (`lua/lair/control.lua` is the other end).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, cast
from urllib.parse import quote, unquote, urlsplit

from sourcelair.ceryx.addresses import literal
from sourcelair.ceryx.table import EngineGone, EngineState, Flow, Place, StaleSession, TableEntry, TableFull
from sourcelair.client.ceryx import InstanceCounts

CALL_TIMEOUT = 10.0
"""Seconds in which NGINX must answer."""
BATCH = 2000
"""Entries or names in one request: NGINX serves nothing else in this worker meanwhile (a few milliseconds)."""

_STATES = frozenset({"live", "null", "redirect", "unresolved", "deleted"})
State = Literal["live", "null", "redirect", "unresolved", "deleted"]
_SAFE = "/:?#[]@!$&'()*,;=~ "
_ENFORCE_HTTPS, _TLS = 1, 2


def _escape(text: str | None) -> str:
    return quote(text, safe=_SAFE) if text else ""


class NginxControl:
    """The table of the NGINX behind a control socket.

    Args:
        socket: the path, as `NginxEngine.control_socket` gives it.
    """

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self._session = 0
        self._wakers: dict[str, Place] = {}

    async def _call(self, action: str, body: str = "", *, session: int | None = None) -> tuple[int, str]:
        try:
            async with asyncio.timeout(CALL_TIMEOUT):
                return await self._exchange(action, body.encode(), self._session if session is None else session)
        except (OSError, TimeoutError, EOFError, ValueError) as error:
            raise EngineGone(f"NGINX does not answer on {self._socket}: {error or type(error).__name__}") from error

    async def _exchange(self, action: str, body: bytes, session: int) -> tuple[int, str]:
        reader, writer = await asyncio.open_unix_connection(str(self._socket), limit=1 << 16)
        try:
            head = (
                f"POST /{action} HTTP/1.1\r\nHost: control\r\nConnection: close\r\n"
                f"Lair-Session: {session}\r\nContent-Length: {len(body)}\r\n\r\n"
            )
            writer.write(head.encode() + body)
            await writer.drain()
            lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            status = int(lines[0].split(" ")[1])
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
            answer = (await reader.readexactly(int(headers["content-length"]))).decode()
        except KeyError as error:
            raise ValueError("the answer has no length") from error
        finally:
            writer.close()
        if status == 409:
            raise StaleSession(f"Session {session} was followed by {answer}.")
        if status not in {200, 507}:
            raise ValueError(f"{action} was answered with {status}")
        return status, answer

    async def hello(self, session: int) -> EngineState:
        """Open a session. See `TableControl`."""
        _, answer = await self._call("hello", session=session)
        self._session = session
        generation, loaded, routes, capacity, held, connections = answer.split("\t")
        return EngineState(
            generation,
            loaded == "1",
            int(routes),
            int(capacity),
            int(held),
            int(connections) if connections else None,
        )

    async def apply(self, entries: Sequence[TableEntry]) -> None:
        """Apply entries in order. See `TableControl`."""
        for at in range(0, len(entries), BATCH):
            chunk = entries[at : at + BATCH]
            lines = [self._waker_line(url) for url in dict.fromkeys(entry.waker for entry in chunk) if url]
            lines += [_entry_line(entry) for entry in chunk]
            status, answer = await self._call("apply", "\n".join(lines))
            if status == 507:
                raise TableFull(answer)

    async def set_wakers(self, places: Mapping[str, Place]) -> None:
        """Say where wakers are. See `TableControl`."""
        self._wakers |= places
        urls = list(places)
        for at in range(0, len(urls), BATCH):
            await self._call("apply", "\n".join(self._waker_line(url) for url in urls[at : at + BATCH]))

    def _waker_line(self, url: str) -> str:
        """Return what names a waker: without an address while it is not known; NGINX keeps one that it has."""
        parts = urlsplit(url)
        address, port = self._wakers.get(url) or (literal(parts.hostname or "") or "", parts.port or 80)
        return "\t".join(("W", url, address if parts.scheme == "http" else "", str(port)))

    async def read(self, sources: Sequence[str]) -> list[TableEntry | None]:
        """Return what the table really holds for these hosts. See `TableControl`."""
        found = list[TableEntry | None]()
        for at in range(0, len(sources), BATCH):
            chunk = sources[at : at + BATCH]
            _, answer = await self._call("read", "\n".join(chunk))
            found += [_parse_entry(source, line) for source, line in zip(chunk, answer.split("\n"), strict=True)]
        return found

    async def oldest(self, most: int) -> list[str]:
        """Return the sources that were looked up longest ago. See `TableControl`."""
        _, answer = await self._call("oldest", str(most))
        return answer.split("\n") if answer else []

    async def set_loaded(self, node: str, waker: str | None, waker_token: str | None) -> None:
        """Say that the table is complete. See `TableControl`."""
        await self._call("loaded", "\t".join((node, waker or "", waker_token or "")))

    async def counts(self, instances: Sequence[str]) -> list[InstanceCounts]:
        """Return this generation's counts of these instances. See `TableControl`."""
        found = list[InstanceCounts]()
        for at in range(0, len(instances), BATCH):
            chunk = instances[at : at + BATCH]
            _, answer = await self._call("counts", "\n".join(chunk))
            for instance, line in zip(chunk, answer.split("\n"), strict=True):
                in_flight, streams, total, robots, robots_in_flight, idle_streams = map(int, line.split("\t"))
                found.append(
                    InstanceCounts(
                        instance=instance,
                        in_flight=in_flight,
                        streams=streams,
                        idle_streams=idle_streams,
                        total=total,
                        robots=robots,
                        robots_in_flight=robots_in_flight,
                    )
                )
        return found

    async def flows(self) -> list[Flow]:
        """Return the visitors' sockets whose bytes keep instances awake. See `TableControl`."""
        _, answer = await self._call("flows")
        return [
            Flow(instance, (client, int(port)), (server, int(own_port)))
            for instance, client, port, server, own_port in (line.split("\t") for line in answer.splitlines())
        ]

    async def forget(self, instances: Sequence[str]) -> list[str]:
        """Drop the counts of instances that are withdrawn and drained. See `TableControl`."""
        forgotten = list[str]()
        for at in range(0, len(instances), BATCH):
            _, answer = await self._call("forget", "\n".join(instances[at : at + BATCH]))
            forgotten += answer.split("\n") if answer else []
        return forgotten


def _entry_line(entry: TableEntry) -> str:
    flags = (_ENFORCE_HTTPS if entry.enforce_https else 0) + (_TLS if entry.tls else 0)
    return "\t".join(
        (
            entry.source,
            entry.state,
            str(entry.revision),
            str(flags),
            str(entry.port or 0),
            entry.waker or "",
            entry.address or "",
            entry.instance or "",
            _escape(entry.location),
            _escape(entry.problem),
            _escape(entry.server_name),
            entry.settings or "",
        )
    )


def _parse_entry(source: str, line: str) -> TableEntry | None:
    if not line:
        return None
    state, revision, flags, port, address, instance, waker, location, problem, server_name, own = line.split("\t")
    if state not in _STATES:
        raise EngineGone(f"NGINX answered with an unknown state {state!r}.")
    return TableEntry(
        source=source,
        revision=int(revision),
        state=cast("State", state),
        address=address or None,
        port=int(port) or None,
        instance=instance or None,
        enforce_https=bool(int(flags) & _ENFORCE_HTTPS),
        tls=bool(int(flags) & _TLS),
        server_name=unquote(server_name) or None,
        location=unquote(location) or None,
        waker=waker or None,
        problem=unquote(problem) or None,
        settings=own or None,
    )
