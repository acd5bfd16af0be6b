"""The watch of routes over HTTP, as anybody may open it: `GET /api/routes/?watch=true&from=REV`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
from tests.ceryx.agents import asleep, live
from tests.ceryx.conftest import Ceryx

from sourcelair.ceryx.models import SCHEMA, route_key
from sourcelair.client.ceryx import RouteChanges, RouteWrite
from sourcelair.client.http import ServerSentEvent
from sourcelair.errors import HistoryCompacted, Unavailable

pytestmark = pytest.mark.anyio


async def take(events: AsyncIterator[ServerSentEvent], number: int = 1) -> list[ServerSentEvent]:
    """Return the next events, which must not be long in coming."""
    async with asyncio.timeout(5):
        return [await anext(events) for _ in range(number)]


async def test_changes_come_in_order_one_event_a_revision(served: Ceryx) -> None:
    """What was before and what comes after, without a gap; the event's id is its revision."""
    client = served.client()
    first = await client.put_route(live("a"))
    await client.batch([RouteWrite(source="a", route=asleep("a")), RouteWrite(source="b", route=live("b"))])
    async with client.events("/api/routes/", params={"watch": "true", "from": first}) as events:
        await client.delete_route("a")
        await client.register_node("n1")  # a revision that changed no route
        found = await take(events, 4)
    assert [event.event for event in found] == ["changes"] * 4
    assert [event.id for event in found] == [str(first + number) for number in range(4)]
    changes = [RouteChanges.model_validate_json(event.data) for event in found]
    assert [change.revision for change in changes] == [first + number for number in range(4)]
    assert [[(item.source, item.route and item.route.target) for item in change.changes] for change in changes] == [
        [("a", "http://10.9.9.9:8000")],
        [("a", None), ("b", "http://10.9.9.9:8000")],
        [("a", None)],
        [],
    ]
    assert changes[1].changes[0].route is not None and changes[2].changes[0].route is None
    assert changes[1].changes[1].route is not None and changes[1].changes[1].route.revision == first + 1


async def test_without_from_it_begins_now(served: Ceryx) -> None:
    """What was before does not come."""
    client = served.client()
    await client.put_route(live("a"))
    async with client.events("/api/routes/", params={"watch": "true"}) as events:
        revision = await client.put_route(live("b"))
        assert (await take(events))[0].id == str(revision)


async def test_history_that_is_gone_is_410(served: Ceryx) -> None:
    """At once where it is gone already; the next revision is none that is gone."""
    client = served.client()
    await client.put_route(live("a"))
    revision = await client.put_route(live("b"))
    await served.store.compact(revision)
    with pytest.raises(HistoryCompacted):
        async with client.events("/api/routes/", params={"watch": "true", "from": revision}):
            pass
    async with client.events("/api/routes/", params={"watch": "true", "from": revision + 1}) as events:
        await client.put_route(live("c"))
        assert (await take(events))[0].id == str(revision + 1)


async def test_a_revision_that_is_yet_to_come_is_410(served: Ceryx) -> None:
    """Its reader knows another store, such as this one before it was restored: it must list again."""
    client = served.client()
    revision = await client.put_route(live("a"))
    with pytest.raises(HistoryCompacted):
        async with client.events("/api/routes/", params={"watch": "true", "from": revision + 2}):
            pass


async def test_it_ends_with_the_service(served: Ceryx) -> None:
    """And cleanly: no reader waits for a service that is gone."""
    client = served.client()
    revision = await client.put_route(live("a"))
    async with client.events("/api/routes/", params={"watch": "true", "from": revision}) as events:
        assert (await take(events))[0].id == str(revision)
        served.service.close_streams()
        async with asyncio.timeout(5):
            assert [event async for event in events] == []


async def test_a_route_of_a_newer_version_is_refused(served: Ceryx) -> None:
    """By everybody who would read it, and by a service that starts: the message says what to do."""
    record = {"schema": SCHEMA + 1, "target": None, "settings": {}, "waker": None, "instance": None, "managed_by": None}
    revision = await served.store.put(route_key("new"), json.dumps(record).encode())
    client = served.client()
    with pytest.raises(Unavailable, match="newer version"):
        await client.get_route("new")
    with pytest.raises(Unavailable, match="newer version"):
        await served.service.routes.load()
    async with client.events("/api/routes/", params={"watch": "true", "from": revision}) as events:
        found = [event async for event in events]
    assert [event.event for event in found] == ["error"]
    assert "newer version" in found[0].json()["detail"]
