"""Not one request fails or doubles across sleep and wake, of both kinds, with a stall between lookup and count."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.chaos.cycles import Kind, run
from tests.system.site import Site

pytestmark = [pytest.mark.anyio, pytest.mark.system, pytest.mark.timeout(240)]

CYCLES = 100


@pytest.mark.parametrize("kind", ["idle", "explicit"])
async def test_no_request_is_lost_or_doubled(stalling_site: Site, tmp_path: Path, kind: Kind) -> None:
    """A hundred cycles under constant GET and POST traffic, on two workers that stall at the worst moment."""
    outcome = await run(stalling_site, tmp_path, kind, CYCLES)
    print(f"{kind}: {outcome.line()}")
    assert outcome.cycles >= CYCLES
