"""An installation whose NGINX stalls at the worst moment: without that, broken schemes pass."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from tests.system.lair import Lair, running_lair
from tests.system.site import Site, site_of

STALL = "0.03"
"""Seconds that a worker may spend between looking a host up and counting the request."""


@contextlib.contextmanager
def stalling_lair(directory: Path, workers: int = 2) -> Iterator[Lair]:
    """An installation with so many NGINX workers that stall."""
    with running_lair(directory, {"LAIR_TEST_STALL": STALL, "LAIR_NGINX_WORKERS": str(workers)}) as lair:
        yield lair


@pytest.fixture
async def stalling_site(tmp_path: Path) -> AsyncIterator[Site]:
    """A site of such an installation."""
    with stalling_lair(tmp_path / "lair") as lair:
        async with site_of(lair) as site:
            yield site
