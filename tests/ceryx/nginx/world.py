"""What the tests of the engine play with: a real NGINX, small apps behind it, and a waker that does as it is told."""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sourcelair.ceryx.nginx.control import NginxControl
from sourcelair.ceryx.nginx.engine import NginxEngine
from sourcelair.ceryx.table import TableEntry
from sourcelair.client.ceryx import InstanceCounts
from sourcelair.settings import Settings

LIMIT = 1 << 20
BROWSER = {"Accept": "text/html,*/*", "Sec-Fetch-Mode": "navigate"}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Message:
    """A request or an answer: `first` is the first line."""

    first: str
    headers: dict[str, str]
    body: bytes = b""
    lines: list[str] = field(default_factory=list)

    @property
    def status(self) -> int:
        return int(self.first.split(" ")[1])

    @property
    def method(self) -> str:
        return self.first.split(" ")[0]

    @property
    def path(self) -> str:
        return self.first.split(" ")[1]

    @property
    def state(self) -> str:
        return self.headers.get("lair-state", "")

    def json(self) -> Any:
        return json.loads(self.body)


async def read_head(reader: asyncio.StreamReader) -> Message:
    lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:] if line)}
    return Message(lines[0], headers, lines=lines[1:-2])


async def read_body(reader: asyncio.StreamReader, headers: Mapping[str, str]) -> bytes:
    if "chunked" in headers.get("transfer-encoding", ""):
        body = b""
        while size := int(await reader.readuntil(b"\r\n"), 16):
            body += await reader.readexactly(size)
            await reader.readexactly(2)
        await reader.readexactly(2)
        return body
    if "content-length" in headers:
        return await reader.readexactly(int(headers["content-length"]))
    return b""


Handler = Callable[[Message, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[bool | None]]


def answer(status: int = 200, body: bytes | str = b"", **headers: str) -> bytes:
    data = body.encode() if isinstance(body, str) else body
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(data)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + data


class Server:
    """An HTTP server whose handler writes raw answers, on keep-alive connections. Returning False closes one."""

    def __init__(self, handler: Handler, *, backlog: int = 100, host: str = "127.0.0.1") -> None:
        self.handler = handler
        self.backlog = backlog
        self.host = host
        self.port = 0
        self.requests: list[Message] = []
        self.connections = 0
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    async def start(self, port: int = 0) -> Server:
        self._server = await asyncio.start_server(
            self._serve, self.host, port, backlog=self.backlog, limit=LIMIT, reuse_address=True
        )
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def stop(self) -> None:
        """Close the listener and every connection, as the death of a process does."""
        if self._server:
            self._server.close()
            for writer in list(self._writers):
                writer.transport.abort()
            await asyncio.sleep(0)
            self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        try:
            while True:
                message = await read_head(reader)
                self.requests.append(message)
                if await self.handler(message, reader, writer) is False:
                    break
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()


def app(name: str = "app") -> Server:
    """An app that answers with its name, after it has read the body whole."""

    async def handler(message: Message, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        message.body = await read_body(reader, message.headers)
        writer.write(answer(200, name))

    return Server(handler)


class Waker(Server):
    """A waker: `on_wake` answers `POST /waker/wake`; the page and the visitor's side are fixed."""

    def __init__(self) -> None:
        super().__init__(self._handle)
        self.wakes: list[dict[str, Any]] = []
        self.on_wake: Callable[[dict[str, Any]], Awaitable[bytes]] = self.still_starting
        self.events: asyncio.Queue[str] = asyncio.Queue()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/waker"

    async def still_starting(self, _: dict[str, Any]) -> bytes:
        await asyncio.sleep(30)
        return answer(202, "{}")

    async def _handle(self, message: Message, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        message.body = await read_body(reader, message.headers)
        path = message.path
        if path == "/waker/wake":
            self.wakes.append(message.json())
            writer.write(await self.on_wake(self.wakes[-1]))
        elif path.startswith("/waker/page"):
            writer.write(answer(503, f"PAGE {path}", Content_Type="text/html", Retry_After="1"))
        elif path == "/waker/visitor/events":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")
            while event := await self.events.get():
                writer.write(f"data: {event}\n\n".encode())
                await writer.drain()
        else:
            writer.write(answer(200, path))
        await writer.drain()
        return False


class Proxy:
    """One engine in a folder of its own, and its table."""

    def __init__(self, directory: Path, *, stall: float = 0.0, **settings: Any) -> None:
        self.port = free_port()
        values = {"data_dir": directory, "listen": f"127.0.0.1:{self.port}", **settings}
        self.settings = Settings(**values)
        self.directory = directory / "nginx"
        self.engine = NginxEngine(self.settings, self.directory, stall=stall)
        self.control = NginxControl(self.engine.control_socket)
        self.revision = itertools.count(1)
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self.engine.run())
        started = asyncio.create_task(self.engine.started.wait())
        await asyncio.wait([self._task, started], return_when=asyncio.FIRST_COMPLETED)
        started.cancel()
        if self._task.done():
            await self._task

    async def leave(self) -> None:
        """End the control plane; NGINX goes on."""
        if self._task:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None

    async def open(self, waker: Waker | None = None, token: str | None = "secret") -> None:
        await self.control.hello(1)
        await self.control.set_loaded("local", waker.url if waker else None, token)

    async def stop(self) -> None:
        await self.leave()
        await self.engine.stop()

    async def put(self, source: str, state: str = "null", **values: Any) -> int:
        revision = next(self.revision)
        await self.control.apply([TableEntry(source, revision, state, **values)])  # type: ignore[arg-type]
        return revision

    async def live(self, source: str, server: Server, instance: str | None = "i-1", **values: Any) -> int:
        return await self.put(source, "live", address=server.host, port=server.port, instance=instance, **values)

    async def count(self, instance: str) -> InstanceCounts:
        return (await self.control.counts([instance]))[0]

    async def drained(self, instance: str) -> None:
        """Wait until nothing is in flight: a request is counted as over just after its answer has been sent."""

        async def is_so() -> bool:
            return (await self.count(instance)).in_flight == 0

        await until(is_so)

    def workers(self) -> list[int]:
        """Return the process ids of NGINX's workers."""
        return [
            int(pid) for pid in Path(f"/proc/{self.engine.pid}/task/{self.engine.pid}/children").read_text().split()
        ]

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port, limit=LIMIT)

    async def request(
        self, host: str, method: str = "GET", path: str = "/", body: bytes | None = None, **headers: str
    ) -> Message:
        reader, writer = await self.connect()
        try:
            writer.write(head(host, method, path, body, headers) + (body or b""))
            found = await read_head(reader)
            if method != "HEAD":
                has_length = "content-length" in found.headers or "transfer-encoding" in found.headers
                found.body = await (read_body(reader, found.headers) if has_length else reader.read())
            return found
        finally:
            writer.close()

    def errors(self) -> list[str]:
        """What NGINX complains of, and should not."""
        text = (self.directory / "logs" / "error.log").read_text()
        bad = ("[crit]", "[alert]", "[emerg]", "[lua] ", "runtime error")
        return [line for line in text.splitlines() if any(word in line for word in bad) and "[warn]" not in line]


def head(host: str, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", "Connection: close"]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


async def until(condition: Callable[[], Awaitable[bool] | bool], timeout: float = 5.0) -> None:
    """Wait until a condition holds that sends no event: what another process shows."""
    async with asyncio.timeout(timeout):
        while True:
            holds = condition()
            if holds if isinstance(holds, bool) else await holds:
                return
            await asyncio.sleep(0.002)
