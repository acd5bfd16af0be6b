"""A node that comes back under another name is the same one: what it was called before is waited for by nobody."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.ceryx.conftest import running

pytestmark = pytest.mark.anyio


async def test_the_old_name_is_forgotten(tmp_path: Path) -> None:
    """Durably; and only names of the same home are."""
    async with running(tmp_path) as ceryx:
        for node, home in (("local", "h1"), ("other", "h2"), ("homeless", None)):
            await ceryx.client().register_node(node, home)
    async with running(tmp_path) as ceryx:
        await ceryx.client().register_node("vm", "h1")
        state = await ceryx.client().withdrawal("i1", 1, until="acknowledged", wait=0)
        assert [node.node for node in state.nodes] == ["homeless", "other", "vm"]
    async with running(tmp_path) as ceryx:
        assert [node.node for node in await ceryx.client("admin").nodes()] == ["homeless", "other", "vm"]


async def test_who_asks_and_leaves_is_registered_all_the_same(tmp_path: Path) -> None:
    """Whenever it leaves: a node that is in the store takes itself for known, and does not ask again."""
    for steps in range(12):
        async with running(tmp_path / str(steps)) as ceryx:
            await ceryx.service.nodes.register("local", "h1")
            asking = asyncio.create_task(ceryx.service.nodes.register("vm", "h1"))
            for _ in range(steps):
                await asyncio.sleep(0)
            asking.cancel()
            await asyncio.wait([asking])
            async with asyncio.timeout(5):
                while steps and [node.name for node in ceryx.service.nodes.all()] != ["vm"]:
                    await asyncio.sleep(0)
            assert (await ceryx.store.get("/nodes/local") is None) == bool(steps)


async def test_nodes_without_a_home_are_not_one(tmp_path: Path) -> None:
    async with running(tmp_path) as ceryx:
        await ceryx.client().register_node("one")
        await ceryx.client().register_node("two")
        assert [node.node for node in await ceryx.client("admin").nodes()] == ["one", "two"]
