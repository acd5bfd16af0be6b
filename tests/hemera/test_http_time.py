"""What apps and their visitors ask Hemera for by way of their node: the time left, more of it, and waking."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import httpx
import pytest
from tests.hemera.world import HOST, Hemera

from sourcelair.hemera.progress import progress
from sourcelair.servers.drivers.base import ExitStatus
from sourcelair.servers.drivers.mock import Script

pytestmark = pytest.mark.anyio


async def ask(hemera: Hemera, method: str, name: str, address: str = "127.0.0.1", **params: object) -> httpx.Response:
    headers = {"Lair-Source": HOST, "X-Real-IP": address}
    return await hemera.http.request(method, f"/waker/visitor/{name}", params=params, headers=headers)


async def test_the_time_left(hemera: Hemera) -> None:
    await hemera.life.create(spec={"sleep": {"stop_after": 100}})
    answer = await ask(hemera, "GET", "time-left")
    assert (answer.status_code, answer.json()["state"], answer.json()["seconds_left"]) == (200, "asleep", None)
    assert "lair-sleeps-in" not in answer.headers
    await hemera.wake()
    await hemera.look()
    answer = await ask(hemera, "GET", "time-left")
    told = answer.json()
    assert told["state"] == "awake"
    assert 90 < told["seconds_left"] <= 100
    assert told["warning"] is False
    assert 90 <= int(answer.headers["lair-sleeps-in"]) <= 100
    assert answer.headers["cache-control"] == "no-store"


async def test_pages_of_other_hosts_may_read_it(hemera: Hemera) -> None:
    await hemera.life.create()
    answer = await ask(hemera, "GET", "time-left")
    assert answer.headers["access-control-allow-origin"] == "*"
    assert "Lair-Sleeps-In" in answer.headers["access-control-expose-headers"]


async def test_its_head_alone(hemera: Hemera) -> None:
    await hemera.life.create()
    await hemera.wake()
    await hemera.look()
    answer = await ask(hemera, "HEAD", "time-left")
    assert answer.status_code == 200
    assert int(answer.headers["lair-sleeps-in"]) > 0


async def test_an_unknown_host_has_none(hemera: Hemera) -> None:
    assert (await ask(hemera, "GET", "time-left")).status_code == 404
    answer = await hemera.http.get("/waker/visitor/time-left")
    assert answer.status_code == 422


async def test_asking_is_no_visit(hemera: Hemera) -> None:
    await hemera.life.create()
    for _ in range(3):
        await ask(hemera, "GET", "time-left")
    assert hemera.life.world.driver.count("start") == 0


async def test_owners_ask_with_their_tokens(hemera: Hemera) -> None:
    await hemera.life.create()

    async def as_(token: str, project: str = "blog") -> httpx.Response:
        headers = {"Authorization": f"Bearer {token}"}
        return await hemera.http.get(f"/api/time-left/demo/{project}/", headers=headers)

    answer = await as_("owner-demo")
    assert (answer.status_code, answer.json()["state"]) == (200, "asleep")
    assert (await as_("admin")).status_code == 200
    assert (await as_("owner-other")).status_code == 403
    assert (await as_("waker")).status_code == 403
    assert (await as_("nonsense")).status_code == 401
    assert (await as_("admin", "none")).status_code == 404


async def test_only_nodes_ask_for_visitors(hemera: Hemera) -> None:
    await hemera.life.create()
    for method, name in [("GET", "time-left"), ("POST", "extend?seconds=5"), ("POST", "wake")]:
        headers = {"Authorization": "Bearer owner-demo", "Lair-Source": HOST}
        answer = await hemera.http.request(method, f"/waker/visitor/{name}", headers=headers)
        assert answer.status_code == 403


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "x", ""])
async def test_an_extension_that_is_none(hemera: Hemera, seconds: str) -> None:
    await hemera.life.create()
    assert (await ask(hemera, "POST", "extend", seconds=seconds)).status_code == 422


async def test_what_sleeps_can_not_be_kept_awake(hemera: Hemera) -> None:
    await hemera.life.create()
    answer = await ask(hemera, "POST", "extend", seconds=60)
    assert (answer.status_code, answer.json()["state"]) == (409, "asleep")


async def test_a_poke_wakes_and_does_not_wait(hemera: Hemera) -> None:
    await hemera.life.create(script=Script(serves=True, listen_after=1.0))
    answer = await ask(hemera, "POST", "wake")
    assert (answer.status_code, answer.json()) == (202, {"state": "starting", "place": None})
    await hemera.life.until("awake")
    await hemera.look()
    answer = await ask(hemera, "POST", "wake")
    assert (answer.status_code, answer.json()) == (200, {"state": "awake", "place": None})
    assert hemera.life.world.driver.count("start") == 1


async def test_a_poke_obeys_all_that_a_visit_does(hemera: Hemera) -> None:
    await hemera.life.create(enabled=False)
    answer = await ask(hemera, "POST", "wake")
    assert (answer.status_code, answer.json()["state"]) == (403, "disabled")
    await hemera.life.create(enabled=True, script=Script(listens=False, exit_after=0, exit_status=ExitStatus(code=3)))
    await hemera.look()
    await ask(hemera, "POST", "wake")
    await hemera.life.until("failed")
    await asyncio.gather(*(ask(hemera, "POST", "wake") for _ in range(5)))
    answer = await ask(hemera, "POST", "wake")
    assert (answer.status_code, answer.json()["state"]) == (503, "failed")


async def test_an_open_page_is_warned_and_told_when_that_is_over(hemera: Hemera) -> None:
    await hemera.life.create(spec={"sleep": {"stop_after": 30, "warn_before": 3600}})
    await hemera.wake()
    await hemera.look()
    stream = progress(hemera.service, HOST)

    async def warning() -> dict[str, Any]:
        while not (told := await anext(stream)).startswith(b"event: sleep-warning\n"):
            pass
        found: dict[str, Any] = json.loads(told.split(b"data: ")[1])
        return found

    async with asyncio.timeout(20):
        told = await warning()
        assert 25 < told["seconds_left"] <= 30
        assert told["sleeps_at"] > time.time()
        await hemera.life.client.stop("demo", "blog")
        await hemera.look()
        assert await warning() == {"seconds_left": None, "sleeps_at": None}
    await stream.aclose()


async def test_a_visitor_keeps_it_awake(hemera: Hemera) -> None:
    await hemera.life.create(spec={"sleep": {"stop_after": 100}})
    await hemera.wake()
    await hemera.look()
    answer = await ask(hemera, "POST", "extend", seconds=600)
    assert (answer.status_code, answer.json()["reason"]) == (200, "extended")
    assert 590 < answer.json()["seconds_left"] <= 600
    assert 590 <= int(answer.headers["lair-sleeps-in"]) <= 600
    server = await hemera.life.client.get("demo", "blog")
    assert server.instance is not None
    assert server.instance.extended_until is not None
