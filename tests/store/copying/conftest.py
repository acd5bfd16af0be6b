"""One etcd, and one event loop, for all tests of copying."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from tests.etcd import EtcdCluster, running_etcd, settle

from sourcelair.store.places import Place, place_of


@pytest.fixture(scope="package")
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


@pytest.fixture
def new_place(one_loop: None, etcd: EtcdCluster, tmp_path: Path) -> Callable[[str], Place]:
    """Return what makes an empty place of a kind: `sqlite` or `etcd`."""

    def make(kind: str) -> Place:
        name = uuid.uuid4().hex
        return place_of(etcd.url(f"/{name}") if kind == "etcd" else str(tmp_path / name))

    return make
