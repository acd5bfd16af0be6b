"""Not one request fails or doubles across sleep and wake, of every kind, with a stall between lookup and count."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.chaos.conftest import stalling_lair
from tests.chaos.cycles import Kind, run
from tests.system.site import Site, site_of

pytestmark = [pytest.mark.anyio, pytest.mark.system, pytest.mark.timeout(240)]

CYCLES = 15


@pytest.mark.parametrize("kind", ["idle", "explicit", "doze"])
async def test_no_request_is_lost_or_doubled(stalling_site: Site, tmp_path: Path, kind: Kind) -> None:
    """Fifteen cycles under GET, POST and WebSocket traffic, on two workers that stall at the worst moment."""
    outcome = await run(stalling_site, tmp_path, kind, CYCLES)
    print(f"{kind}: {outcome.line()}")
    assert not outcome.problems
    assert outcome.cycles >= CYCLES
    assert len(outcome.seen.answered) == len(outcome.seen.sent)


async def test_requests_at_the_beat_of_keep_alive(stalling_site: Site, tmp_path: Path) -> None:
    """Whoever comes just when the app closes its idle connections is answered, once."""
    outcome = await run(stalling_site, tmp_path, "beat", 5)
    print(f"beat: {outcome.line()}")
    assert not outcome.problems
    assert outcome.cycles >= 5


async def test_cycles_with_four_workers(tmp_path: Path) -> None:
    """More workers than processors: what one of them has counted, another one must not miss."""
    with stalling_lair(tmp_path / "lair", workers=4) as lair:
        async with site_of(lair) as site:
            for kind in ("idle", "explicit", "doze"):
                outcome = await run(site, tmp_path, kind, 6)
                print(f"{kind}: {outcome.line()}")
                assert not outcome.problems
