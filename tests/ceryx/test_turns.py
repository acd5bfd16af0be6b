"""What handles very many routes lets others have their turn: all services share one event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest
from tests.ceryx.agents import live
from tests.ceryx.conftest import Ceryx

from sourcelair.ceryx.http_lists import _encode
from sourcelair.ceryx.models import encode_route, route_key
from sourcelair.ceryx.routes import clean_writes
from sourcelair.client.arrays import decode_array
from sourcelair.client.ceryx import RouteChanges, RouteWrite, StoredRoute
from sourcelair.pacing import in_steps
from sourcelair.store.base import Change, Entry, Event

pytestmark = pytest.mark.anyio

MANY = 5000
NAMES = [f"h{number}" for number in range(MANY)]


async def turns(work: Coroutine[Any, Any, Any]) -> tuple[Any, int]:
    """Return a result, and how often others had their turn meanwhile."""
    task, count = asyncio.ensure_future(work), 0
    while not task.done():
        await asyncio.sleep(0)
        count += 1
    return task.result(), count


async def test_long_lists_are_handled_in_steps() -> None:
    """Checked, shown, encoded and decoded: ten turns for five thousand at least."""
    writes = [RouteWrite(source=name, route=live(name)) for name in NAMES]
    cleaned, count = await turns(clean_writes(writes, None))
    assert [write.source for write in cleaned] == NAMES and count >= 10
    events = tuple(
        Event("put", route_key(name), 7, Entry(route_key(name), encode_route(live(name)), 7, 7, 1), None)
        for name in NAMES
    )
    text, count = await turns(_encode(Change(7, events)))
    changes = RouteChanges.model_validate_json(text)
    assert [change.source for change in changes.changes] == NAMES and changes.revision == 7 and count >= 10
    assert [change.route for change in changes.changes] == [
        StoredRoute(**live(name).model_dump(), revision=7) for name in NAMES
    ]

    async def decode() -> list[StoredRoute]:
        return [StoredRoute(**item["route"]) async for item in in_steps(decode_array(text[text.index("[") : -1]))]

    routes, count = await turns(decode())
    assert [route.source for route in routes] == NAMES and count >= 10


@pytest.mark.parametrize("text", ["[]", " [ ] ", "[1]", '[1, "],[" ,\n{"a": [2]}]'])
def test_arrays_are_decoded_as_json_says(text: str) -> None:
    """Whatever their white space."""
    import json

    assert list(decode_array(text)) == json.loads(text)


@pytest.mark.parametrize("text", ["", "{}", "[1", "[1, x]"])
def test_what_is_no_array_is_an_error(text: str) -> None:
    """Never a part of it."""
    with pytest.raises(ValueError):  # noqa: PT011 - json's own
        list(decode_array(text))


async def test_a_large_batch_arrives_whole(served: Ceryx) -> None:
    """Over HTTP, as one event of one revision."""
    client = served.client()
    result = await client.batch([RouteWrite(source=name, route=live(name)) for name in NAMES])
    routes, revision = await client.list_routes()
    assert (sorted(route.source for route in routes), revision) == (sorted(NAMES), result.revision)
    async with client.events("/api/routes/", params={"watch": "true", "from": revision}) as events:
        changes = RouteChanges.model_validate_json((await anext(events)).data)
    assert sorted(change.source for change in changes.changes) == sorted(NAMES)
