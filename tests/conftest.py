"""Fixtures that every test may use."""

from __future__ import annotations

import importlib.util

import pytest

# What drives the whole system needs all of its services.
if importlib.util.find_spec("sourcelair.hemera.service") is None:
    collect_ignore = ["system", "chaos"]


@pytest.fixture
def anyio_backend() -> str:
    """The services run on asyncio only, so the tests do too."""
    return "asyncio"
