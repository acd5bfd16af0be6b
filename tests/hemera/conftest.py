"""Fixtures of Hemera's tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.hemera.world import Hemera, a_hemera


@pytest.fixture
async def hemera(tmp_path: Path) -> AsyncIterator[Hemera]:
    async with a_hemera(tmp_path, max_starting=2) as hemera:
        yield hemera
