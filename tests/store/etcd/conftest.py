"""One event loop for all of these tests: see `settle`."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from tests.etcd import settle


@pytest.fixture(scope="package")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="package", autouse=True)
async def one_loop(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[None]:
    yield
    await settle(tmp_path_factory.mktemp("settle"))
