"""Fixtures that every test may use."""

from __future__ import annotations

import resource

import pytest


def pytest_configure() -> None:
    """Allow as many open files as there may be: some tests are two thousand visitors at once."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


@pytest.fixture
def anyio_backend() -> str:
    """The services run on asyncio only, so the tests do too."""
    return "asyncio"
