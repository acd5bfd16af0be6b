"""Fixtures that every test may use."""

from __future__ import annotations

import pytest


@pytest.fixture
def anyio_backend() -> str:
    """The services run on asyncio only, so the tests do too."""
    return "asyncio"
