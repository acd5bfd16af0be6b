"""The process driver with what this machine has, and without."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.servers.drivers.subjects import BareSubject, ProcessSubject


@pytest.fixture
async def subject(tmp_path: Path) -> AsyncIterator[ProcessSubject]:
    """The driver with the cgroups that this machine has."""
    subject = ProcessSubject(tmp_path)
    yield subject
    await subject.close()


@pytest.fixture
async def bare(tmp_path: Path) -> AsyncIterator[BareSubject]:
    """The driver without cgroups."""
    subject = BareSubject(tmp_path)
    yield subject
    await subject.close()
