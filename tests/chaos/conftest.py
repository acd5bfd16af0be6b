"""An installation whose NGINX stalls at the worst moment: without that, broken schemes pass."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.system.lair import running_lair
from tests.system.site import Site, site_of

STALL = "0.03"
"""Seconds that a worker may spend between looking a host up and counting the request."""


@pytest.fixture
async def stalling_site(tmp_path: Path) -> AsyncIterator[Site]:
    """A site with two NGINX workers that stall."""
    env = {"LAIR_TEST_STALL": STALL, "LAIR_NGINX_WORKERS": "2"}
    with running_lair(tmp_path / "lair", env) as lair:
        async with site_of(lair) as site:
            yield site
