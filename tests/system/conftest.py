"""The whole system behind a real NGINX: one that all tests of a module share, and one for each test that breaks it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.system.lair import Lair, running_lair


@pytest.fixture(scope="module")
def lair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lair]:
    """A running system for the tests of one module: each uses names of its own, and leaves it running."""
    if shutil.which("nginx") is None:
        pytest.skip("nginx is not installed")
    with running_lair(tmp_path_factory.mktemp("lair")) as running:
        yield running


@pytest.fixture
def own_lair(tmp_path: Path) -> Iterator[Lair]:
    """A running system for one test alone, which may kill what it likes."""
    if shutil.which("nginx") is None:
        pytest.skip("nginx is not installed")
    with running_lair(tmp_path) as running:
        yield running
