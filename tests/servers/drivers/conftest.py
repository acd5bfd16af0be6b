"""Fixtures for the tests of drivers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.servers.drivers.subjects import BareSubject, ProcessSubject


@pytest.fixture(params=[ProcessSubject, BareSubject], ids=lambda subject: subject.__name__)
async def processes(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ProcessSubject]:
    """Real processes, with and without cgroups."""
    subject = request.param(tmp_path)
    yield subject
    await subject.close()
