"""Events over a real connection that breaks again and again: nothing is lost, nothing comes twice, all is in order."""

from __future__ import annotations

import asyncio
import json
import math
import random
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import uvicorn
from tests.servers.world import Life, World, error_of

from sourcelair.auth import Identity
from sourcelair.client.policy import Policy, SleepPolicy
from sourcelair.client.servers import ServerEvent, StartRequest
from sourcelair.errors import Forbidden, HistoryCompacted
from sourcelair.servers.events import follow
from sourcelair.servers.records import SERVERS
from sourcelair.store.base import Put

pytestmark = pytest.mark.anyio

VISIT = StartRequest(cause="visit")


@asynccontextmanager
async def listening(life: Life) -> AsyncIterator[int]:
    """Serve the API on a free port, and give that."""
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(life.app, log_config=None, lifespan="off"))
    task = asyncio.create_task(server.serve(sockets=[sock]))
    try:
        yield sock.getsockname()[1]
    finally:
        life.service.closing.set()  # streams end before the server does
        server.should_exit = True
        await task
        sock.close()


class Reader:
    """Follows the events, and loses its connection after a random number of bytes, mostly within an event."""

    def __init__(self, port: int, after: int, seed: int) -> None:
        self.port = port
        self.last = after
        self.seen: list[ServerEvent] = []
        self.broken = 0
        self.goal = math.inf
        """The revision at which it ends."""
        self._random = random.Random(seed)

    async def run(self) -> None:
        while self.last < self.goal:
            await self._connect()
            self.broken += 1

    async def _connect(self) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(
            b"GET /api/events HTTP/1.0\r\nHost: api\r\nAuthorization: Bearer service\r\n"
            b"Last-Event-ID: %d\r\n\r\n" % self.last
        )
        left, text = self._random.randrange(1, 20_000), b""
        try:
            async with asyncio.timeout(1):
                while left > 0 and (part := await reader.read(min(left, self._random.randrange(1, 4000)))):
                    left -= len(part)
                    text += part
                    while b"\n\n" in text:
                        event, _, text = text.partition(b"\n\n")
                        self._take(event.decode())
        except TimeoutError:
            pass  # nothing more is to come
        finally:
            writer.transport.abort()

    def _take(self, event: str) -> None:
        fields = dict(line.split(": ", 1) for line in event.splitlines() if ": " in line and line[0] != ":")
        if fields.get("event") == "server":
            self.last = int(fields["id"])
            self.seen.append(ServerEvent(**json.loads(fields["data"])))


@pytest.mark.parametrize("seed", range(3))
async def test_nothing_is_lost_where_the_connection_breaks(life: Life, seed: int) -> None:
    """Under starts, stops, changes of policies, and servers that come and go."""
    store = life.service.context.store
    began = await store.revision()

    async def lives(project: str) -> None:
        for at in range(4):
            await life.create("demo", project, spec={"env": {"AT": str(at)}})
            await life.client.start("demo", project, VISIT, wait=5)
            await life.client.put_owner("demo", Policy(sleep=SleepPolicy(stop_after=60 + random.random())))
            await life.client.delete("demo", project, wait=5)

    async with listening(life) as port:
        reader = Reader(port, began, seed)
        changes = asyncio.gather(*(lives(f"site{number}") for number in range(3)))
        reading = asyncio.ensure_future(reader.run())
        await changes
        whole = await stored_since(life, began)
        reader.goal = whole[-1].revision
        await reading
    assert reader.broken > 10
    assert [told(event) for event in reader.seen] == [told(event) for event in whole], "each once, and in order"
    assert len(whole) > 60


def told(event: ServerEvent) -> dict[str, Any]:
    """Return what an event says that is stored with it: the policy is the one in effect when it is read."""
    return event.model_dump(exclude={"server": {"policy"}})


async def stored_since(life: Life, after: int) -> list[ServerEvent]:
    """Return all changes of servers since a revision, without any connection."""
    await life.create("demo", "last")
    last = (await life.client.get("demo", "last")).revision
    found = []
    events = await follow(life.service.context, Identity(kind="admin"), after)
    async for together in events:
        found += together
        if found[-1].revision >= last:
            break
    await events.aclose()
    return found


async def test_an_event_says_why_and_who(life: Life) -> None:
    """As the server itself does."""
    created = await life.create()
    await life.client.start("demo", "blog", VISIT, wait=5)
    events = await follow(life.service.context, Identity(kind="admin"), created.revision)
    [event] = await anext(events)
    await events.aclose()
    assert event.server is not None and event.server.cause == "visit"
    assert "actor" in event.server.model_dump()


async def test_of_one_revision_the_last_event_has_the_id(life: Life) -> None:
    """Stores may do what comes together as one: whoever loses the connection in between gets all of it again."""
    store = life.service.context.store
    for project in ("one", "two"):
        await life.create("demo", project)
    entries = (await store.list(SERVERS)).entries
    before = await store.revision()
    revision = await store.transact([], [Put(entry.key, entry.value) for entry in entries])
    async with (
        listening(life) as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as http,
        http.stream(
            "GET", "/api/events", headers={"Authorization": "Bearer service", "Last-Event-ID": str(before)}
        ) as stream,
    ):
        lines = stream.aiter_lines()
        found = [line async for line in until_empty(lines, 2) if line]
    assert [line for line in found if line.startswith("id:")] == [f"id: {revision}"]
    assert found.index(f"id: {revision}") > found.index("event: server")
    assert [line["project"] for line in data_of(found)] == ["one", "two"]


async def until_empty(lines: AsyncIterator[str], times: int) -> AsyncIterator[str]:
    """Give lines until so many events have ended."""
    async for line in lines:
        yield line
        times -= not line
        if not times:
            return


def data_of(lines: list[str]) -> list[dict[str, Any]]:
    return [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]


async def test_history_that_is_gone_is_410(world: World) -> None:
    """Before anything is sent; whoever lists again can go on from there."""
    async with world.up() as life, listening(life) as port:
        created = await life.create()
        await life.client.start("demo", "blog", VISIT, wait=5)
        store = life.service.context.store
        now = await store.revision()
        await store.compact(now)
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", headers={"Authorization": "Bearer service"}, trust_env=False
        ) as http:
            for headers, params in (
                ({"Last-Event-ID": str(created.revision - 1)}, {}),
                ({}, {"from": created.revision}),
                ({"Last-Event-ID": str(now + 100)}, {}),
            ):
                answer = await http.get("/api/events", headers=headers, params=params)
                assert answer.status_code == 410
                assert answer.headers["content-type"] == "application/problem+json"
                assert "list" in answer.json()["detail"]
        with pytest.raises(HistoryCompacted):
            await follow(life.service.context, Identity(kind="admin"), created.revision - 1)
        stopped = await life.client.stop("demo", "blog", wait=5)
        reader = Reader(port, now, 1)
        reader.goal = stopped.revision
        await reader.run()
        assert reader.seen[-1].server is not None and reader.seen[-1].server.state == "asleep"


async def test_who_may_see_no_server_follows_none(life: Life) -> None:
    for kind in ("waker", "instance-i1"):
        assert isinstance(await error_of(life.as_(kind).request("GET", "/api/events")), Forbidden)


async def test_an_event_tells_the_policy_that_is_in_effect(life: Life) -> None:
    """As every answer does, though it is not stored: what follows the stream must not take it for none."""
    stream = await follow(life.service.context, Identity(kind="service"), None)
    created = await life.create(spec={"wake": {"show_log": True}})
    [event] = await anext(stream)
    assert event.server is not None
    assert event.server.policy == created.policy
    assert event.server.policy.wake.show_log
    assert event.server.policy.sleep.stop_after == life.world.settings.idle_timeout
    await stream.aclose()
