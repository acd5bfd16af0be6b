"""Policies of owners: stored, in effect for all of their servers, published with their routes, and nobody else's."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import httpx
import pytest
from tests.servers.world import Life, World, error_of

from sourcelair.auth import Identity
from sourcelair.client.ceryx import BatchResult, CeryxClient, RouteWrite
from sourcelair.client.policy import Policy, QuietRule, SleepPolicy, WakePolicy
from sourcelair.client.servers import StartRequest
from sourcelair.errors import Forbidden, InvalidInput, NotFound, OutOfSpace, PreconditionFailed
from sourcelair.servers import owners
from sourcelair.servers.events import follow
from sourcelair.store.base import Compare, Operation

pytestmark = pytest.mark.anyio

HOST = "blog--demo.localhost"
LONG = Policy(sleep=SleepPolicy(stop_after=3600), wake=WakePolicy(patience=3))


async def test_what_an_owner_says_is_in_effect_for_what_its_servers_leave_open(life: Life) -> None:
    """For those that there are and those to come; other owners' are as they were."""
    await life.create(spec={"wake": {"patience": 7}})
    await life.create("other", "site")
    before = await life.client.get("demo", "blog")
    stored = await life.client.put_owner("demo", LONG)
    assert stored.policy == LONG
    server = await life.client.get("demo", "blog")
    assert (server.policy.sleep.stop_after, server.policy.wake.patience) == (3600, 7)
    assert server.revision > before.revision, "who follows by revision learns of it"
    await life.create("demo", "later")
    later = await life.client.get("demo", "later")
    assert (later.policy.sleep.stop_after, later.policy.wake.patience) == (3600, 3)
    others = (await life.client.get("other", "site")).policy.sleep.stop_after
    assert others == life.world.settings.idle_timeout
    await life.client.delete_owner("demo")
    assert (await life.client.get("demo", "blog")).policy.sleep.stop_after == life.world.settings.idle_timeout


async def test_it_outlives_the_control_plane(world: World) -> None:
    """And so do the settings of routes, which are written anew then."""
    async with world.up() as life:
        await life.create()
        await life.client.put_owner("demo", LONG)
    await world.ceryx.batch([], managed_by="nobody")
    async with world.up() as life:
        await life.service.recovered.wait()
        assert (await life.client.get("demo", "blog")).policy.sleep.stop_after == 3600
        assert (await life.client.get_owner("demo")).policy == LONG
        assert (await world.ceryx.get_route(HOST)).settings.patience == 3


async def test_a_change_restarts_nothing(life: Life) -> None:
    """Its route is written again with the same target; the instance is the same."""
    await life.create()
    before = await life.client.start("demo", "blog", StartRequest(cause="visit"), wait=5)
    route = await life.world.ceryx.get_route(HOST)
    await life.client.put_owner("demo", LONG)
    after = await life.client.get("demo", "blog")
    assert before.instance and after.instance
    assert (after.state, after.instance.id) == ("awake", before.instance.id)
    changed = await life.world.ceryx.get_route(HOST)
    assert (changed.target, changed.instance) == (route.target, route.instance)
    assert changed.settings.patience == 3 and changed.revision > route.revision
    assert after.route_revision == changed.revision, "what is seen of a refused connect is compared with that"
    assert life.world.driver.count("stop") == 0


async def test_a_change_of_its_own_policy_is_published_too(life: Life) -> None:
    """With a target or without; what is the installation's is left out."""
    quiet = QuietRule(path="/health*", method="GET")
    await life.create(spec={"wake": {"quiet": [quiet.model_dump()], "timeout": life.world.settings.wake_timeout}})
    settings = (await life.world.ceryx.get_route(HOST)).settings
    assert (settings.quiet, settings.wake_timeout, settings.streams, settings.patience) == ([quiet], None, None, None)
    await life.create(spec={"sleep": {"streams": "flow"}})
    settings = (await life.world.ceryx.get_route(HOST)).settings
    assert (settings.quiet, settings.streams) == (None, "flow")
    await life.client.start("demo", "blog", StartRequest(cause="visit"), wait=5)
    published = await life.world.ceryx.get_route(HOST)
    assert published.target is not None and published.settings.streams == "flow"
    await life.client.stop("demo", "blog", wait=5)
    withdrawn = await life.world.ceryx.get_route(HOST)
    assert withdrawn.target is None and withdrawn.settings.streams == "flow"


async def test_a_route_of_which_nothing_changes_is_not_written(life: Life) -> None:
    await life.create()
    revision = (await life.world.ceryx.get_route(HOST)).revision
    await life.client.put_owner("demo", Policy(sleep=SleepPolicy(stop_after=5)))
    assert (await life.world.ceryx.get_route(HOST)).revision == revision


async def test_changes_while_it_starts_and_stops_end_with_the_newest(life: Life) -> None:
    """A publish and a change of the settings take turns: neither undoes what the other wrote."""
    await life.create()

    async def lives() -> None:
        for _ in range(5):
            await life.client.start("demo", "blog", StartRequest(), wait=5)
            await life.client.stop("demo", "blog", wait=5)
        await life.client.start("demo", "blog", StartRequest(), wait=5)

    async def changes() -> None:
        for patience in range(1, 40):
            await life.client.put_owner("demo", Policy(wake=WakePolicy(patience=patience)))

    await asyncio.gather(lives(), changes())
    route = await life.world.ceryx.get_route(HOST)
    server = await life.client.get("demo", "blog")
    assert route.settings.patience == server.policy.wake.patience == 39
    assert server.instance is not None and route.instance == server.instance.id


async def test_many_servers_get_it_and_others_go_on(life: Life) -> None:
    """More than are changed at once; a list that is read meanwhile is answered."""
    count = 2 * owners.AT_ONCE + 1
    await asyncio.gather(*(life.create("demo", f"site{number}") for number in range(count)))
    changing = asyncio.ensure_future(life.client.put_owner("demo", LONG))
    await life.client.list(host=HOST)
    assert not changing.done()
    await changing
    assert {server.policy.sleep.stop_after for server in await life.client.list()} == {3600}
    routes, _ = await life.world.ceryx.list_routes()
    assert [route.settings.patience for route in routes] == [3] * count


async def test_settings_that_can_not_be_written_hold_nobody_up(life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither its own starts and stops nor other servers; they are written as soon as that works."""
    for project in ("blog", "stuck"):
        await life.create("demo", project)
    batch, refusing = CeryxClient.batch, True

    async def refuse(self: CeryxClient, writes: Sequence[RouteWrite], *, managed_by: str | None = None) -> BatchResult:
        stuck = [write for write in writes if write.source == "stuck--demo.localhost"]
        if refusing and any(write.route and write.route.settings.patience for write in stuck):
            raise OutOfSpace("The table is full.")
        return await batch(self, writes, managed_by=managed_by)

    monkeypatch.setattr(CeryxClient, "batch", refuse)
    monkeypatch.setattr(owners, "LONGEST_WAIT", 0.2)
    await life.client.put_owner("demo", LONG)
    assert (await life.world.ceryx.get_route(HOST)).settings.patience == 3
    assert (await life.world.ceryx.get_route("stuck--demo.localhost")).settings.patience is None
    assert (await life.client.start("demo", "blog", StartRequest(), wait=5)).state == "awake"
    refusing = False
    async with asyncio.timeout(5):
        while (await life.world.ceryx.get_route("stuck--demo.localhost")).settings.patience != 3:
            await asyncio.sleep(0.01)


async def test_a_record_that_can_not_be_written_keeps_it_from_no_other(
    life: Life, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And gets it as soon as that works."""
    count = owners.AT_ONCE + 1
    await asyncio.gather(*(life.create("demo", f"site{number:03}") for number in range(count)))
    store, refusing = life.service.context.store, True
    transact = store.transact

    async def refuse(compares: Sequence[Compare], operations: Sequence[Operation]) -> int:
        if refusing and any(compare.key.endswith("/site000") for compare in compares):
            raise OutOfSpace("The disk is full.")
        return await transact(compares, operations)

    monkeypatch.setattr(store, "transact", refuse)
    monkeypatch.setattr(owners, "LONGEST_WAIT", 0.2)
    await life.client.put_owner("demo", LONG)
    new = [server.project for server in await life.client.list() if server.policy.sleep.stop_after == 3600]
    assert sorted(new) == [f"site{number:03}" for number in range(1, count)]
    refusing = False
    async with asyncio.timeout(5):
        while (await life.world.ceryx.get_route("site000--demo.localhost")).settings.patience != 3:
            await asyncio.sleep(0.01)
    assert (await life.client.get("demo", "site000")).policy.sleep.stop_after == 3600


async def test_events_tell_of_it(life: Life) -> None:
    """With the policy in effect, also in what is read from history."""
    created = await life.create()
    await life.client.put_owner("demo", LONG)
    events = await follow(life.service.context, Identity(kind="admin"), created.revision)
    [event] = await anext(events)
    await events.aclose()
    assert event.server is not None and event.server.policy.sleep.stop_after == 3600


async def test_conditions_hold(life: Life) -> None:
    """As they do for servers."""
    first = await life.client.put_owner("demo", LONG, expect=0)
    assert isinstance(await error_of(life.client.put_owner("demo", LONG, expect=0)), PreconditionFailed)
    wrong = await error_of(life.client.put_owner("demo", Policy(), expect=first.revision + 1))
    assert isinstance(wrong, PreconditionFailed) and wrong.extra["revision"] == first.revision
    assert isinstance(await error_of(life.client.delete_owner("demo", expect=first.revision + 1)), PreconditionFailed)
    second = await life.client.put_owner("demo", Policy(), expect=first.revision)
    assert second.revision > first.revision
    await life.client.delete_owner("demo", expect=second.revision)
    assert isinstance(await error_of(life.client.get_owner("demo")), NotFound)
    assert isinstance(await error_of(life.client.delete_owner("demo")), NotFound)


async def test_an_owner_reads_and_writes_its_own_only(life: Life) -> None:
    await life.client.put_owner("demo", LONG)
    await life.client.put_owner("other", LONG)
    own = life.as_("owner-demo")
    assert [found.owner for found in await own.owners()] == ["demo"]
    assert (await own.put_owner("demo", Policy())).policy == Policy()
    for call in (own.get_owner("other"), own.put_owner("other", Policy()), own.delete_owner("other")):
        assert isinstance(await error_of(call), Forbidden)
    reader = life.as_("read-demo")
    assert (await reader.get_owner("demo")).policy == Policy()
    for call in (reader.get_owner("other"), reader.put_owner("demo", LONG), reader.delete_owner("demo")):
        assert isinstance(await error_of(call), Forbidden)
    for kind in ("waker", "instance-i1"):
        assert isinstance(await error_of(life.as_(kind).owners()), Forbidden)
    assert (await life.client.get_owner("other")).policy == LONG


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"sleep": {"stop_after": -1}}, "sleep.stop_after: write a number of seconds greater than 0, or never"),
        ({"sleep": {"stop_after": "soon"}}, "sleep.stop_after: "),
        ({"sleep": {"schedule": [{"days": ["mon"], "start": "9", "end": "10:00"}]}}, "sleep.schedule.0.start: "),
        ({"sleep": {"schedule": [{"days": [], "start": "09:00", "end": "10:00"}]}}, "sleep.schedule.0.days: "),
        ({"wake": {"quiet": [{"method": "get"}]}}, "wake.quiet.0.method: "),
        ({"wake": {"tries": 0}}, "wake.tries: "),
        ({"limits": {"cpus": 0}}, "limits.cpus: "),
        ({"naps": {}}, "naps: "),
    ],
)
async def test_what_is_wrong_is_named(life: Life, body: dict[str, Any], field: str) -> None:
    """By the one field that it is about, and nothing is stored."""
    error = await error_of(life.client.request("PUT", "/api/owners/demo/", body=body))
    assert isinstance(error, InvalidInput)
    assert error.detail.startswith(field) and ";" not in error.detail
    assert await life.client.owners() == []


async def test_a_name_that_is_none_is_refused(life: Life) -> None:
    for call in (life.client.put_owner("a--b", LONG), life.client.get_owner("a--b"), life.client.delete_owner("a--b")):
        assert isinstance(await error_of(call), InvalidInput)


async def test_the_revision_is_an_etag(life: Life) -> None:
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(life.app),
        base_url="http://servers.test",
        headers={"Authorization": "Bearer admin"},
    ) as http:
        made = await http.put("/api/owners/demo/", json=LONG.model_dump())
        assert made.status_code == 201 and Policy(**made.json()) == LONG
        again = await http.put("/api/owners/demo", json=LONG.model_dump(), headers={"If-Match": made.headers["etag"]})
        assert again.status_code == 200
        assert (await http.get("/api/owners/demo/")).headers["etag"] == again.headers["etag"]
        assert (await http.put("/api/owners/demo/", json={}, headers={"If-Match": "x"})).status_code == 400


async def test_dozing_is_refused_where_nothing_can_be_frozen(life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    """An owner may say it all the same, for servers that can; it is not in effect for others."""
    monkeypatch.setattr(life.world.driver, "capabilities", frozenset(), raising=False)
    error = await error_of(life.create(spec={"sleep": {"doze_after": 60}}))
    assert isinstance(error, InvalidInput) and error.detail.startswith("spec.sleep.doze_after: ")
    await life.create(spec={"sleep": {"doze_after": "never"}})
    await life.create("demo", "other")
    await life.client.put_owner("demo", Policy(sleep=SleepPolicy(doze_after=60)))
    assert (await life.client.get("demo", "other")).policy.sleep.doze_after is None


@pytest.mark.parametrize("rule", [{"address": "the office"}, {"address": "10.0.0.0/33"}, {"value": "a"}])
async def test_rules_that_no_route_could_have_are_refused(life: Life, rule: dict[str, Any]) -> None:
    """Of owners and of servers: what can't be published would never be started or stopped again."""
    await life.create()
    body = {"wake": {"quiet": [rule]}}
    assert "wake.quiet.0" in await refused(life, "PUT", "/api/owners/demo/", body)
    spec = {"command": ["true"], **body}
    assert "wake.quiet.0" in await refused(life, "PUT", "/api/servers/demo/blog/", {"spec": spec})
    assert (await life.client.start("demo", "blog", StartRequest(cause="visit"), wait=5)).state == "awake"
    assert (await life.client.stop("demo", "blog", wait=5)).state == "asleep"


async def refused(life: Life, method: str, path: str, body: Any) -> str:
    error = await error_of(life.client.request(method, path, body=body))
    assert isinstance(error, InvalidInput)
    return error.detail
