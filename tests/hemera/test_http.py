"""Hemera beside a real SourceLair API whose instances a script makes: the waker contract."""

from __future__ import annotations

import asyncio

import pytest
from tests.hemera.world import HOST, Hemera

from sourcelair.hemera import waker
from sourcelair.servers import starts
from sourcelair.servers.drivers.mock import Script

pytestmark = pytest.mark.anyio


async def test_five_hundred_wakes_are_one_start(hemera: Hemera) -> None:
    await hemera.life.create(script=Script(serves=True, listen_after=0.05))
    answers = await asyncio.gather(*(hemera.wake() for _ in range(500)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["instance"] for answer in answers}) == 1
    assert hemera.life.world.driver.count("start") == 1
    route = await hemera.life.world.ceryx.get_route(HOST)
    assert answers[0].json() == {"instance": route.instance, "revision": route.revision}


async def test_servers_that_never_listen_keep_no_other_from_waking(
    hemera: Hemera, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(starts, "LONGEST_TURN", 0.05)
    monkeypatch.setattr(waker, "LONGEST_TURN", 0.05)
    for project in ("one", "two"):
        await hemera.life.create("many", project, script=Script(listens=False))
    calls = [asyncio.ensure_future(hemera.wake(f"{project}--many.localhost")) for project in ("one", "two")]
    for project in ("one", "two"):
        await hemera.life.until("starting", "many", project)
    await hemera.life.create()
    assert (await hemera.wake()).status_code == 200
    for call in calls:
        call.cancel()
    await asyncio.wait(calls)


@pytest.mark.parametrize("source", ["nobody--demo.localhost", "blog--demo.localhost/docs"])
async def test_an_unknown_host(hemera: Hemera, source: str) -> None:
    """A path's route is one too: servers have hosts only."""
    await hemera.life.create()
    answer = await hemera.wake(source)
    assert answer.status_code == 404
    assert answer.headers["lair-state"] == "unknown-host"


async def test_a_disabled_server_wakes_for_nobody(hemera: Hemera) -> None:
    await hemera.life.create(enabled=False)
    answer = await hemera.wake()
    assert answer.status_code == 403
    assert answer.headers["lair-state"] == "disabled"


async def test_only_nodes_ask(hemera: Hemera) -> None:
    answer = await hemera.http.post("/waker/wake", json={}, headers={"Authorization": "Bearer owner-demo"})
    assert answer.status_code == 403
    answer = await hemera.http.post("/waker/wake", json={}, headers={"Authorization": "Bearer nonsense"})
    assert answer.status_code == 401


async def test_an_api_that_is_down_is_no_failed_start(hemera: Hemera) -> None:
    await hemera.life.create()

    async def down(**_: object) -> None:
        from sourcelair.errors import Unreachable

        raise Unreachable("nobody answers")

    hemera.service.directory._servers.list = down  # type: ignore[method-assign,assignment]
    assert (await hemera.wake("other--demo.localhost")).status_code == 502
