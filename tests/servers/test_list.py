"""The list of servers: made piece by piece while others go on."""

from __future__ import annotations

import asyncio
import json

import pytest
from tests.servers.world import Life

from sourcelair.auth import Identity
from sourcelair.client.servers import Server, Spec
from sourcelair.servers import http, steps
from sourcelair.servers.records import ServerRecord
from sourcelair.servers.worker import Worker

pytestmark = pytest.mark.anyio

ADMIN = Identity(kind="admin")


def add(life: Life, count: int) -> list[Worker]:
    """Let the service know servers that were never stored."""
    workers = []
    for number in range(count):
        record = ServerRecord(
            owner="demo", project=f"site{number}", spec=Spec(driver="mock"), created_at=0, changed_at=0
        )
        workers.append(Worker(life.service.context, record, 1, steps.take))
        life.service._add(workers[-1])
    return workers


@pytest.mark.parametrize("count", [0, 1, http.AT_ONCE, http.AT_ONCE + 1, 3 * http.AT_ONCE])
async def test_a_list_of_any_length_is_json(life: Life, count: int) -> None:
    add(life, count)
    parts = [part async for part in http._array(life.service.select(ADMIN))]
    listed = [Server(**server) for server in json.loads(b"".join(parts))]
    assert [server.project for server in listed] == [f"site{number}" for number in range(count)]
    assert len(await life.client.list()) == count


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [("", 12), ("demo/", 12), ("demo/site1", 3), ("demo/site11", 1), ("dem", 12), ("demo/x", 0), ("other/", 0)],
)
async def test_a_list_of_those_whose_names_begin_so(life: Life, prefix: str, expected: int) -> None:
    add(life, 12)
    listed = await life.client.list(prefix=prefix)
    assert len(listed) == expected
    assert all(f"{server.owner}/{server.project}".startswith(prefix) for server in listed)


async def test_others_go_on_while_a_list_is_made(life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    """No more than some are shown in one go; one that is removed meanwhile is left out."""
    workers = add(life, 5 * http.AT_ONCE)
    shown, most = 0, 0
    show = Worker.show

    def counted(worker: Worker) -> Server:
        nonlocal shown
        shown += 1
        return show(worker)

    async def another() -> None:
        nonlocal shown, most
        while True:
            most, shown = max(most, shown), 0
            await asyncio.sleep(0)

    monkeypatch.setattr(Worker, "show", counted)
    beside = asyncio.ensure_future(another())
    await asyncio.sleep(0)
    parts = http._array(life.service.select(ADMIN))
    first = await anext(parts)
    workers[-1].removed = True
    life.service._forget(workers[-1].record)
    listed = json.loads(first + b"".join([part async for part in parts]))
    beside.cancel()
    assert len(listed) == len(workers) - 1
    assert 0 < most <= http.AT_ONCE
