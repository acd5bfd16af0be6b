"""Every test of the suite runs once for each implementation."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from tests.etcd import EtcdCluster, running_etcd, settle
from tests.store.conformance.backends import BACKENDS, Backend, EtcdBackend

from sourcelair.store.base import Store


@pytest.fixture(scope="session")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdCluster]:
    with running_etcd(tmp_path_factory.mktemp("etcd")) as cluster:
        yield cluster


@pytest.fixture(scope="package")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="package")
async def one_loop(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[None]:
    """Keep one event loop for all tests that ask for this: see `settle`."""
    yield
    await settle(tmp_path_factory.mktemp("settle"))


@pytest.fixture(params=sorted(BACKENDS))
def make_backend(request: pytest.FixtureRequest) -> Callable[[Path], Backend]:
    if request.param == "etcd":
        EtcdBackend.cluster = request.getfixturevalue("etcd")
    return BACKENDS[request.param]


@pytest.fixture
def backend(make_backend: Callable[[Path], Backend], tmp_path: Path) -> Backend:
    return make_backend(tmp_path)


@pytest.fixture
async def store(one_loop: None, backend: Backend) -> AsyncIterator[Store]:
    store = await backend.open()
    yield store
    await store.close()
