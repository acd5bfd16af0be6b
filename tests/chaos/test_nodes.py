"""What proxy nodes hold is what etcd holds, whatever happened in between: `bin/chaos --kind nodes` for longer."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.chaos.nodes import run

pytestmark = [pytest.mark.anyio, pytest.mark.system, pytest.mark.timeout(420)]

SECONDS = 120.0


async def test_every_node_holds_what_etcd_holds(tmp_path: Path) -> None:
    """Members and processes are killed, paused and cut off, NGINX is killed, history is forgotten."""
    seen = await run(tmp_path / "nodes", SECONDS, seed=1)
    print(seen.line())
    assert seen.problems == []
    assert seen.written > 100 and seen.compared > 100
