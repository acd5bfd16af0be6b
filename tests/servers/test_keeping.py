"""Waking without waiting, and what keeps a server awake though nobody visits."""

from __future__ import annotations

import asyncio
import time

import pytest
from tests.servers.world import Life, World, error_of

from sourcelair.client.servers import Server, SleepRequest, StartRequest
from sourcelair.errors import Conflict, Forbidden, InvalidInput, NotFound, Unavailable
from sourcelair.servers.drivers.base import ExitStatus
from sourcelair.servers.drivers.mock import Script

pytestmark = pytest.mark.anyio

VISIT = StartRequest(cause="visit")
FAILS = Script(listens=False, exit_after=0.01, exit_status=ExitStatus(code=3))


async def awake(life: Life) -> Server:
    await life.create()
    return await life.client.start("demo", "blog", VISIT, wait=5)


async def test_a_poke_wakes_and_does_not_wait(life: Life) -> None:
    """Answered before there is anything to see of it; again it changes nothing."""
    gate = life.world.driver.block("start")
    await life.create()
    server = await life.client.wake("demo", "blog")
    assert server.desired == "awake" and server.state in {"asleep", "starting"}
    await gate.reached.wait()
    assert (await life.client.wake("demo", "blog")).state == "starting"
    gate.release()
    await life.until("awake")
    assert (await life.client.wake("demo", "blog")).state == "awake"
    assert life.world.driver.count("start") == 1


async def test_a_poke_obeys_the_back_off_as_a_visit_does(life: Life) -> None:
    await life.create(script=FAILS)
    await error_of(life.client.start("demo", "blog", VISIT, wait=5))
    error = await error_of(life.client.wake("demo", "blog"))
    assert isinstance(error, Unavailable)
    assert error.extra["state"] == "failed" and error.extra["retry_at"] > time.time()
    assert life.world.driver.count("start") == 1


async def test_a_poke_is_for_whoever_may_start_it(life: Life) -> None:
    await life.create(enabled=False)
    error = await error_of(life.client.wake("demo", "blog"))
    assert isinstance(error, Conflict) and error.extra["state"] == "disabled"
    for kind in ("owner-other", "read-demo", "waker", "instance-i1"):
        assert isinstance(await error_of(life.as_(kind).wake("demo", "blog")), Forbidden)
    assert isinstance(await error_of(life.client.wake("demo", "none")), NotFound)


async def test_an_extension_is_a_fact_of_this_instance(world: World) -> None:
    """On disk before it is acknowledged, never shortened but taken back, and gone with the instance."""
    async with world.up() as life:
        await awake(life)
        before = time.time()
        server = await life.client.extend("demo", "blog", 3600)
        assert server.instance and server.instance.extended_until is not None
        assert before + 3600 <= server.instance.extended_until <= time.time() + 3600
        shorter = await life.client.extend("demo", "blog", 60)
        assert shorter.instance and shorter.instance.extended_until == server.instance.extended_until
    async with world.up() as life:
        kept = await life.client.get("demo", "blog")
        assert kept.instance and kept.instance.extended_until == server.instance.extended_until
        back = await life.client.extend("demo", "blog", 0)
        assert back.instance and back.instance.extended_until is None
        await life.client.extend("demo", "blog", 3600)
        again = await life.client.restart("demo", "blog", wait=5)
        assert again.instance and again.instance.extended_until is None


async def test_what_sleeps_can_not_be_kept_awake(life: Life) -> None:
    await life.create()
    error = await error_of(life.client.extend("demo", "blog", 60))
    assert isinstance(error, Conflict) and "demo/blog is not awake (it is asleep)" in error.detail
    assert error.extra["state"] == "asleep"
    await life.client.start("demo", "blog", VISIT, wait=5)
    gate = life.world.driver.block("stop")
    await life.client.stop("demo", "blog", wait=0)
    await gate.reached.wait()
    error = await error_of(life.client.extend("demo", "blog", 60))
    assert isinstance(error, Conflict) and "stopping" in error.detail
    gate.release()


async def test_an_extension_while_an_idle_stop_is_under_way_is_taken(life: Life) -> None:
    life.world.settings.idle_drain_timeout = 30
    server = await awake(life)
    assert server.instance is not None
    await life.world.ceryx.register_node("quiet")
    request = SleepRequest(instance=server.instance.id, totals=[])
    http = life.as_("service")
    sleeping = asyncio.ensure_future(http.sleep("demo", "blog", request))
    await life.until("draining")
    extended = await life.client.extend("demo", "blog", 60)
    assert extended.instance is not None and extended.instance.extended_until is not None
    await life.client.wake("demo", "blog")
    assert not (await sleeping).slept


@pytest.mark.parametrize("seconds", [-1, 31 * 86400])
async def test_a_time_that_makes_no_sense_is_refused(life: Life, seconds: float) -> None:
    server = await awake(life)
    assert server.instance is not None
    for client, path in (
        (life.client, "/api/servers/demo/blog/extend"),
        (life.as_(f"instance-{server.instance.id}"), "/api/instance/busy"),
    ):
        error = await error_of(client.request("POST", path, body={"seconds": seconds}))
        assert isinstance(error, InvalidInput) and error.detail.startswith("seconds: ")


async def test_an_app_says_that_it_is_busy(life: Life) -> None:
    """Only of itself, and what it said last counts."""
    server = await awake(life)
    assert server.instance is not None
    app = life.as_(f"instance-{server.instance.id}")
    assert (await app.busy(600)).busy_until is not None
    shown = await life.client.get("demo", "blog")
    assert shown.instance and shown.instance.busy_until is not None
    assert shown.instance.busy_until > time.time() + 590
    shorter = (await app.busy(60)).busy_until
    assert shorter is not None and shorter < shown.instance.busy_until
    assert (await app.busy(0)).busy_until is None
    for kind in ("admin", "service", "owner-demo", "waker"):
        assert isinstance(await error_of(life.as_(kind).busy(5)), Forbidden)


async def test_one_that_says_so_again_and_again_writes_little(life: Life) -> None:
    """What is stored falls short of what it said by less than a second."""
    server = await awake(life)
    assert server.instance is not None
    app = life.as_(f"instance-{server.instance.id}")
    first = (await app.busy(600)).busy_until
    revision = (await life.client.get("demo", "blog")).revision
    began = time.monotonic()
    while time.monotonic() - began < 0.3:
        said = (await app.busy(600)).busy_until
        assert said is not None and first is not None and said - first < 0.99
    assert (await life.client.get("demo", "blog")).revision == revision


async def test_an_instance_that_ended_says_nothing_any_more(life: Life) -> None:
    """Neither does one that nobody knows, nor one that is being stopped."""
    server = await awake(life)
    assert server.instance is not None
    app = life.as_(f"instance-{server.instance.id}")
    gate = life.world.driver.block("stop")
    await life.client.stop("demo", "blog", wait=0)
    await gate.reached.wait()
    assert isinstance(await error_of(app.busy(60)), Conflict)
    gate.release()
    await life.until("asleep")
    assert isinstance(await error_of(app.busy(60)), NotFound)
    await life.client.start("demo", "blog", VISIT, wait=5)
    assert isinstance(await error_of(app.busy(60)), NotFound)
    assert isinstance(await error_of(life.as_("instance-unknown").busy(60)), NotFound)


async def test_one_that_is_busy_while_it_starts_is_so_once_it_is_awake(life: Life) -> None:
    """It may have begun a long job before it answers."""
    await life.create(script=Script(serves=True, listen_after=0.2))
    await life.client.wake("demo", "blog")
    starting = await life.until("starting")
    assert starting.instance is not None
    said = await life.as_(f"instance-{starting.instance.id}").busy(600)
    server = await life.until("awake")
    assert server.instance and server.instance.busy_until == said.busy_until


async def test_an_adopted_instance_is_still_known(world: World) -> None:
    async with world.up() as life:
        server = await awake(life)
    async with world.up() as life:
        assert server.instance is not None
        assert (await life.as_(f"instance-{server.instance.id}").busy(60)).busy_until is not None


async def test_an_instance_is_told_where_to_say_it(life: Life) -> None:
    """In its environment, which no spec can choose; and it reads nothing with that."""
    life.service.context.told = lambda instance: {"LAIR_API": "http://api", "LAIR_TOKEN": f"for {instance}"}
    server = await awake(life)
    assert server.instance is not None
    worker = life.service.worker("demo", "blog")
    order = life.service.context.order(worker.record, server.instance.id, 1)
    assert (order.env["LAIR_API"], order.env["LAIR_TOKEN"]) == ("http://api", f"for {server.instance.id}")
    assert "LAIR_TOKEN" not in worker.show().model_dump_json()
    for name in ("LAIR_API", "LAIR_TOKEN"):
        error = await error_of(life.create("demo", "other", spec={"env": {name: "mine"}}))
        assert isinstance(error, InvalidInput) and name in error.detail


READING = [
    "/api/servers/", "/api/servers/demo/blog/", "/api/servers/demo/blog/logs", "/api/servers/demo/blog/report",
    "/api/events", "/api/owners/", "/api/owners/demo/",
]  # fmt: skip


@pytest.mark.parametrize("path", READING)
async def test_an_instance_reads_nothing(life: Life, path: str) -> None:
    server = await awake(life)
    assert server.instance is not None
    error = await error_of(life.as_(f"instance-{server.instance.id}").request("GET", path))
    assert isinstance(error, Forbidden)


@pytest.mark.parametrize("action", ["start", "stop", "restart", "sleep", "wake", "extend"])
async def test_an_instance_changes_nothing_else(life: Life, action: str) -> None:
    server = await awake(life)
    assert server.instance is not None
    body = {"sleep": {"instance": server.instance.id, "totals": []}, "extend": {"seconds": 1}}.get(action)
    app = life.as_(f"instance-{server.instance.id}")
    path = f"/api/servers/demo/blog/{action}"
    assert isinstance(await error_of(app.request("POST", path, body=body)), Forbidden)
    assert isinstance(await error_of(app.delete("demo", "blog")), Forbidden)
