"""The table in NGINX's shared memory: how much fits, what becomes of what was deleted."""

from __future__ import annotations

import pytest
from tests.ceryx.nginx.conftest import StartProxy

from sourcelair.ceryx.table import TableEntry

pytestmark = pytest.mark.anyio


def entries(hosts: list[str], revision: int, state: str = "live") -> list[TableEntry]:
    if state == "deleted":
        return [TableEntry(host, revision, "deleted") for host in hosts]
    return [TableEntry(host, revision, "live", "127.0.0.1", 1, f"i-{host[:40]}") for host in hosts]


@pytest.mark.parametrize("length", [20, 250])
async def test_as_many_routes_fit_as_the_table_says(start_proxy: StartProxy, length: int) -> None:
    """With short hosts and with the longest: the number that is published is one that fits."""
    proxy = await start_proxy(route_table_bytes=1 << 20)
    await proxy.open()
    for revision in range(1, 7):
        state = await proxy.control.hello(1)
        names = [f"{state.routes + at:0{length}}" for at in range(state.capacity - state.routes)]
        await proxy.control.apply(entries(names, revision))
        assert (await proxy.control.hello(1)).routes == state.capacity
    assert state.routes > 1500, "and not much less than what fits"
