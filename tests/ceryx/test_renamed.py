"""A node that comes back under another name is the same one: what it was called before is waited for by nobody."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from tests.ceryx.conftest import running

from sourcelair.ceryx.agent.sources import StoreSource
from sourcelair.errors import Unavailable
from sourcelair.store.base import Store

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


async def test_a_registration_whose_answer_is_lost_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It stands in the store, and whoever asks again is waited for from then on."""
    async with running(tmp_path) as ceryx:
        put = ceryx.store.put

        async def lost(*arguments: Any, **named: Any) -> int:
            await put(*arguments, **named)
            raise Unavailable("nobody knows")

        with monkeypatch.context() as patched:
            patched.setattr(ceryx.store, "put", lost)
            with pytest.raises(Unavailable):
                await ceryx.service.nodes.register("vm", "h1")
        node = await ceryx.service.nodes.register("vm", "h1")
        entry = await ceryx.store.get("/nodes/vm")
        assert entry is not None and node.registered_revision == entry.create_revision
        assert [node.name for node in ceryx.service.nodes.all()] == ["vm"]


async def test_a_node_whose_removal_was_not_answered_is_written_down_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next Ceryx knows of it, too."""
    async with running(tmp_path) as ceryx:
        nodes, delete = ceryx.service.nodes, ceryx.store.delete
        node = await nodes.register("vm", "h1")
        node.live, node.heard = False, node.heard - 100

        async def lost(*arguments: Any, **named: Any) -> bool:
            await delete(*arguments, **named)
            raise Unavailable("nobody knows")

        with monkeypatch.context() as patched:
            patched.setattr(ceryx.store, "delete", lost)
            with pytest.raises(Unavailable):
                await nodes.remove("vm")
        before = node.registered_revision
        assert (await nodes.register("vm", "h1")).registered_revision > before
    async with running(tmp_path) as ceryx:
        assert [node.name for node in ceryx.service.nodes.all()] == ["vm"]


async def test_a_node_believes_the_store_only_where_it_knows_that_registration(tmp_path: Path) -> None:
    """Else Ceryx is asked: it may never have heard of the node, and would wait for it with no withdrawal."""
    async with running(tmp_path) as ceryx:

        async def opening() -> Store:
            return ceryx.store

        source = StoreSource(opening, ceryx.client(), "h1")
        registered = await source.register("vm", None)
        ceryx.service.nodes._nodes.clear()
        assert await source.register("vm", registered) == registered
        assert ceryx.service.nodes.all() == []
        assert await source.register("vm", None) == registered
        assert [node.name for node in ceryx.service.nodes.all()] == ["vm"]
