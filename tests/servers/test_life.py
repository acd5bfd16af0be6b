"""A server's life: created, woken, asleep again, stopped, restarted, removed; and what can go wrong on the way."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from tests.servers.world import WAKER, Life, error_of

from sourcelair.client.servers import ServerInput, SleepRequest, Spec, StartRequest
from sourcelair.errors import Conflict, Forbidden, InvalidInput, NotFound, PreconditionFailed, Unavailable
from sourcelair.servers import starts
from sourcelair.servers.drivers.base import ExitStatus
from sourcelair.servers.drivers.mock import Script
from sourcelair.streams import STREAMS

pytestmark = pytest.mark.anyio

HOST = "blog--demo.localhost"
VISIT = StartRequest(cause="visit")


async def test_created_it_sleeps_and_has_a_route_with_a_waker(life: Life) -> None:
    server = await life.create()
    assert (server.state, server.url) == ("asleep", f"http://{HOST}:8080")
    route = await life.world.ceryx.get_route(HOST)
    assert (route.target, route.waker, route.managed_by) == (None, WAKER, "sourcelair-api")


async def test_a_start_publishes_where_it_listens(life: Life) -> None:
    await life.create()
    server = await life.client.start("demo", "blog", VISIT, wait=5)
    assert server.state == "awake" and server.instance is not None
    route = await life.world.ceryx.get_route(HOST)
    assert route.target == f"http://127.0.0.1:{server.instance.port}"
    assert route.instance == server.instance.id
    assert server.timing is not None and server.timing.published is not None
    assert route.revision == server.route_revision


async def test_a_hundred_starts_are_one(life: Life) -> None:
    await life.create(script=Script(serves=True, listen_after=0.05))
    answers = await asyncio.gather(*(life.client.start("demo", "blog", VISIT, wait=5) for _ in range(100)))
    assert len({answer.instance.id for answer in answers if answer.instance}) == 1
    assert life.world.driver.count("start") == 1


async def test_a_stop_is_answered_when_the_instance_is_gone(life: Life) -> None:
    await life.create()
    before = await life.client.start("demo", "blog", VISIT, wait=5)
    server = await life.client.stop("demo", "blog", wait=5)
    assert server.state == "asleep" and server.instance is None
    assert server.last_exit is not None and before.instance is not None
    assert server.last_exit.expected and server.last_exit.instance == before.instance.id
    assert (await life.world.ceryx.get_route(HOST)).target is None
    assert (await life.client.stop("demo", "blog", wait=5)).state == "asleep"


async def test_a_stop_feeds_no_back_off(life: Life) -> None:
    await life.create()
    for _ in range(4):
        await life.client.start("demo", "blog", VISIT, wait=5)
        await life.client.stop("demo", "blog", wait=5)
    assert (await life.client.get("demo", "blog")).retry_at is None


async def test_a_restart_is_another_instance(life: Life) -> None:
    await life.create()
    first = await life.client.start("demo", "blog", VISIT, wait=5)
    second = await life.client.restart("demo", "blog", wait=5)
    assert second.state == "awake"
    assert first.instance and second.instance and first.instance.id != second.instance.id


async def test_an_idle_stop_names_what_it_saw(life: Life) -> None:
    await life.create()
    server = await life.client.start("demo", "blog", VISIT, wait=5)
    assert server.instance is not None
    wrong = await life.client.sleep("demo", "blog", SleepRequest(instance="another", totals=[]))
    assert not wrong.slept
    result = await life.client.sleep("demo", "blog", SleepRequest(instance=server.instance.id, totals=[]))
    assert result.slept
    await life.until("asleep")
    assert (await life.client.get("demo", "blog")).cause == "idle"


async def test_an_arrival_cancels_an_idle_stop(life: Life) -> None:
    await life.create()
    server = await life.client.start("demo", "blog", VISIT, wait=5)
    assert server.instance is not None
    # A node that is registered and never says anything: the drain waits for it.
    await life.world.ceryx.register_node("quiet")
    sleeping = asyncio.ensure_future(
        life.client.sleep("demo", "blog", SleepRequest(instance=server.instance.id, totals=[]))
    )
    await life.until("draining")
    woken = await life.client.start("demo", "blog", VISIT, wait=5)
    assert woken.instance is not None and woken.instance.id == server.instance.id
    assert (await sleeping).slept is False
    assert (await life.world.ceryx.get_route(HOST)).target is not None
    assert life.world.driver.count("stop") == 0


async def test_a_node_that_does_not_answer_keeps_it_awake(life: Life) -> None:
    await life.create()
    server = await life.client.start("demo", "blog", VISIT, wait=5)
    assert server.instance is not None
    await life.world.ceryx.register_node("quiet")
    result = await life.client.sleep("demo", "blog", SleepRequest(instance=server.instance.id, totals=[]))
    assert not result.slept and "quiet" in result.reason
    assert (await life.client.get("demo", "blog")).state == "awake"


async def test_a_failed_start_says_why_and_waits(life: Life) -> None:
    await life.create(
        script=Script(listens=False, output=b"no such module\n", exit_after=0.01, exit_status=ExitStatus(code=3))
    )
    error = await error_of(life.client.start("demo", "blog", VISIT, wait=5))
    assert isinstance(error, Unavailable)
    assert error.extra["state"] == "failed" and "code 3" in error.detail
    assert error.extra["log"] == ["no such module"]
    again = await error_of(life.client.start("demo", "blog", VISIT, wait=5))
    assert isinstance(again, Unavailable)
    assert life.world.driver.count("start") == 1, "the second visit came before the back-off was over"
    error = await error_of(life.client.start("demo", "blog", StartRequest(), wait=5))
    assert life.world.driver.count("start") == 2, "a person need not wait"


async def test_what_can_not_be_started_fails(life: Life) -> None:
    await life.create(script=Script(fail="program not found: nothing"))
    error = await error_of(life.client.start("demo", "blog", VISIT, wait=5))
    assert "program not found: nothing" in error.detail
    assert (await life.client.get("demo", "blog")).state == "failed"


async def test_one_that_never_listens_is_ended(life: Life) -> None:
    await life.create(script=Script(listens=False), spec={"readiness": {"start_timeout": 0.1}})
    error = await error_of(life.client.start("demo", "blog", VISIT, wait=5))
    assert "did not listen" in error.detail
    assert await life.world.driver.find_all() == []


async def test_one_that_answers_not_yet_is_waited_for(life: Life) -> None:
    await life.create(script=Script(serves=True, status=503), spec={"readiness": {"start_timeout": 0.2}})
    error = await error_of(life.client.start("demo", "blog", VISIT, wait=5))
    assert "it answered 503" in error.detail


async def test_one_that_ends_by_itself_sleeps_and_wakes_again(life: Life) -> None:
    await life.create()
    first = await life.client.start("demo", "blog", VISIT, wait=5)
    assert first.instance is not None
    life.world.driver.end(first.instance.id)
    server = await life.until("asleep")
    assert server.last_exit is not None and not server.last_exit.expected
    assert (await life.world.ceryx.get_route(HOST)).target is None
    second = await life.client.start("demo", "blog", StartRequest(), wait=5)
    assert first.instance and second.instance and first.instance.id != second.instance.id


async def test_always_on_starts_by_itself(life: Life) -> None:
    await life.create(always_on=True)
    first = (await life.until("awake")).instance
    life.world.driver.end(first.id if first else "")
    await life.until("asleep")
    again = (await life.until("awake")).instance
    assert first and again and first.id != again.id


async def test_disabled_it_starts_for_nobody(life: Life) -> None:
    await life.create(enabled=False)
    error = await error_of(life.client.start("demo", "blog", StartRequest(), wait=1))
    assert isinstance(error, Conflict) and error.extra["state"] == "disabled"


async def test_disabling_stops_it(life: Life) -> None:
    await life.create()
    await life.client.start("demo", "blog", VISIT, wait=5)
    await life.create(enabled=False)
    server = await life.until("asleep")
    assert server.desired == "disabled"


async def test_another_spec_stops_the_instance(life: Life) -> None:
    await life.create()
    await life.client.start("demo", "blog", VISIT, wait=5)
    await life.create(spec={"env": {"A": "1"}})
    await life.until("asleep")


async def test_a_refused_connect_publishes_the_same_instance_again(life: Life) -> None:
    await life.create()
    server = await life.client.start("demo", "blog", VISIT, wait=5)
    assert server.instance is not None and server.route_revision is not None
    request = StartRequest(
        cause="unreachable", failed_instance=server.instance.id, failed_revision=server.route_revision
    )
    again = await life.client.start("demo", "blog", request, wait=5)
    assert again.instance is not None and again.instance.id == server.instance.id
    assert again.route_revision is not None and again.route_revision > server.route_revision
    assert life.world.driver.count("start") == 1
    stale = await life.client.start("demo", "blog", request, wait=5)
    assert stale.route_revision == again.route_revision, "that was about an older publication"


async def test_removed_nothing_is_left(life: Life) -> None:
    await life.create()
    await life.client.start("demo", "blog", VISIT, wait=5)
    await life.client.delete("demo", "blog", wait=5)
    assert isinstance(await error_of(life.client.get("demo", "blog")), NotFound)
    assert isinstance(await error_of(life.world.ceryx.get_route(HOST)), NotFound)
    assert await life.world.driver.find_all() == []


async def test_owners_see_their_own(life: Life) -> None:
    await life.create()
    await life.create("other", "site")
    mine = life.as_("owner-demo")
    assert [server.owner for server in await mine.list()] == ["demo"]
    assert isinstance(await error_of(mine.get("other", "site")), Forbidden)
    assert isinstance(await error_of(mine.stop("other", "site", wait=1)), Forbidden)
    body = ServerInput(spec=Spec(driver="mock"), hosts=["www.example.com"])
    assert isinstance(await error_of(mine.put("demo", "blog", body)), Forbidden)


async def test_a_host_belongs_to_one_server(life: Life) -> None:
    await life.create(hosts=["www.example.com"])
    assert [server.project for server in await life.client.list(host="WWW.example.com:80")] == ["blog"]
    error = await error_of(life.create("demo", "other", hosts=["www.example.com"]))
    assert isinstance(error, Conflict)
    error = await error_of(life.create("demo", "other", hosts=["blog--demo.localhost"]))
    assert isinstance(error, InvalidInput)
    await life.create()
    await life.create("demo", "other", hosts=["www.example.com"])
    assert [server.project for server in await life.client.list(host="www.example.com")] == ["other"]


async def test_create_only(life: Life) -> None:
    await life.create()
    error = await error_of(life.client.put("demo", "blog", ServerInput(spec=Spec(driver="mock")), create_only=True))
    assert isinstance(error, PreconditionFailed)


async def test_values_of_variables_are_never_shown(life: Life) -> None:
    server = await life.create(spec={"env": {"SECRET": "hunter2"}})
    assert server.spec.env == {"SECRET": "***"}
    await life.client.put("demo", "blog", ServerInput(spec=server.spec))
    assert life.service.worker("demo", "blog").record.spec.env == {"SECRET": "hunter2"}


async def test_ports_are_given_out_again_when_they_are_free(life: Life) -> None:
    await life.create()
    for _ in range(25):  # more than the range has
        await life.client.start("demo", "blog", VISIT, wait=5)
        await life.client.stop("demo", "blog", wait=5)


async def test_a_silent_node_keeps_ports_in_quarantine(life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starts, "PORT_TIMEOUT", 0.1)
    await life.create(spec={"sleep": {"drain_timeout": 0}})
    await life.world.ceryx.register_node("quiet")
    for _ in range(20):
        await life.client.start("demo", "blog", VISIT, wait=5)
        await life.client.stop("demo", "blog", wait=5)
    error = await error_of(life.client.start("demo", "blog", VISIT, wait=5))
    assert "No free port" in error.detail


async def test_who_follows_a_log_is_told_of_its_end(life: Life) -> None:
    """With its server its log is gone: nobody waits for what can't come any more."""
    await life.create(script=Script(serves=True, output=b"hello\n"))
    await life.client.start("demo", "blog", StartRequest(), wait=5)
    transport = httpx.ASGITransport(life.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        path = "/api/servers/demo/blog/logs?follow=true"
        following = asyncio.ensure_future(http.get(path, headers={"Authorization": "Bearer admin"}))
        while not STREAMS._value.get():
            await asyncio.sleep(0)
        await life.client.delete("demo", "blog", wait=10)
        async with asyncio.timeout(5):
            assert (await following).text == "hello\n"
