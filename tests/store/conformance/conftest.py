"""Every test of the suite runs once for each implementation."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from tests.store.conformance.backends import BACKENDS, Backend

from sourcelair.store.base import Store


@pytest.fixture(params=sorted(BACKENDS))
def make_backend(request: pytest.FixtureRequest) -> Callable[[Path], Backend]:
    return BACKENDS[request.param]


@pytest.fixture
def backend(make_backend: Callable[[Path], Backend], tmp_path: Path) -> Backend:
    return make_backend(tmp_path)


@pytest.fixture
async def store(backend: Backend) -> AsyncIterator[Store]:
    store = await backend.open()
    yield store
    await store.close()
