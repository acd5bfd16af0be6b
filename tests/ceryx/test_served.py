"""When a write is answered: once every live node serves it, and `Lair-Served` says whether that came true."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.ceryx.agents import live
from tests.ceryx.conftest import Ceryx, running

from sourcelair.client.ceryx import NodeReport, RouteWrite

pytestmark = pytest.mark.anyio


def report(applied: int, **values: Any) -> NodeReport:
    return NodeReport(session=1, generation="g1", applied=applied, routes=0, capacity=1000, **values)


async def post(ceryx: Ceryx, source: str) -> Any:
    return await ceryx.client("admin")._http.post("/api/routes/", json={"source": source, "target": "http://h:1"})


async def waits(ceryx: Ceryx) -> None:
    """Wait until somebody waits for the nodes."""
    async with asyncio.timeout(5):
        while not any(ceryx.service.nodes._waiting.values()):
            await asyncio.sleep(0)


@asynccontextmanager
async def restarted(tmp_path: Path) -> AsyncIterator[Ceryx]:
    """A Ceryx that knows the node n1 from its store only."""
    async with running(tmp_path) as ceryx:
        await ceryx.client().register_node("n1")
    async with running(tmp_path, served_wait=60.0) as ceryx:
        yield ceryx


async def test_the_header_says_whether_it_is_served(tmp_path: Path) -> None:
    """True once all live nodes have applied it; false while none is live; for POST, PUT and DELETE."""
    async with running(tmp_path, served_wait=60.0) as ceryx:
        client = ceryx.client("admin")
        assert (await post(ceryx, "a")).headers["Lair-Served"] == "false"
        await client.register_node("n1")
        for method, path, code in (
            ("POST", "/api/routes/", 201),
            ("PUT", "/api/routes/a/", 200),
            ("DELETE", "/api/routes/a/", 204),
        ):
            body = None if method == "DELETE" else {"source": "a", "target": "http://h:1"}
            request = asyncio.create_task(client._http.request(method, path, json=body))
            await waits(ceryx)
            await client.report("n1", report(await ceryx.store.revision()))
            answer = await request
            assert (answer.status_code, answer.headers["Lair-Served"]) == (code, "true")


async def test_a_table_that_is_not_loaded_serves_nothing(tmp_path: Path) -> None:
    """Whatever it has applied: its visitors are still held."""
    async with running(tmp_path, served_wait=0.0) as ceryx:
        await ceryx.client().register_node("n1")
        await ceryx.client().report("n1", report(1000, loaded=False))
        assert (await post(ceryx, "a")).headers["Lair-Served"] == "false"
        await ceryx.client().report("n1", report(1000))
        assert (await post(ceryx, "a")).headers["Lair-Served"] == "true"


async def test_silent_nodes_are_not_waited_for(tmp_path: Path) -> None:
    """A write is served when all live nodes serve it; one that is silent may be gone."""
    async with running(tmp_path, served_wait=60.0) as ceryx:
        client = ceryx.client()
        await client.register_node("gone")
        ceryx.clock.now += 100
        await client.register_node("n1")
        ceryx.service.nodes.expire()
        await client.report("n1", report(1000))
        async with asyncio.timeout(5):
            assert (await post(ceryx, "a")).headers["Lair-Served"] == "true"


async def test_after_a_restart_a_write_waits_for_the_node_to_speak(tmp_path: Path) -> None:
    """It serves visitors all the time: it is not answered before the node has it."""
    async with restarted(tmp_path) as ceryx:
        write = asyncio.create_task(post(ceryx, "a"))
        await waits(ceryx)
        await ceryx.client().register_node("n1")
        assert not write.done(), "it spoke, and has not applied it"
        await ceryx.client().report("n1", report(await ceryx.store.revision()))
        assert (await write).headers["Lair-Served"] == "true"


async def test_after_a_restart_a_node_is_waited_for_until_its_lease_ends(tmp_path: Path) -> None:
    """One that never speaks is silent then."""
    async with restarted(tmp_path) as ceryx:
        write = asyncio.create_task(post(ceryx, "a"))
        await waits(ceryx)
        ceryx.clock.now += 100
        ceryx.service.nodes.expire()
        assert (await write).headers["Lair-Served"] == "false"


async def test_after_a_restart_a_manager_does_not_wait(tmp_path: Path) -> None:
    """The nodes of its own machine speak only when it has written all its routes."""
    async with restarted(tmp_path) as ceryx:
        async with asyncio.timeout(5):
            result = await ceryx.client().batch([RouteWrite(source="a", route=live("a"))], managed_by="me")
        assert not result.served
