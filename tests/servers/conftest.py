"""Fixtures of the SourceLair API's tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.servers.world import Life, World, a_world


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with a_world(tmp_path) as world:
        yield world


@pytest.fixture
async def life(world: World) -> AsyncIterator[Life]:
    async with world.up() as life:
        yield life
