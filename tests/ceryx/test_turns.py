"""What handles very many routes lets others have their turn: all services share one event loop."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Coroutine, Iterable
from typing import Any

import pytest
from tests.ceryx.agents import live
from tests.ceryx.conftest import Ceryx

from sourcelair.ceryx.agent.resolve import Resolver, system_lookup
from sourcelair.ceryx.agent.table import FEW, NodeTable
from sourcelair.ceryx.agent.wakers import Wakers
from sourcelair.ceryx.http_lists import _encode
from sourcelair.ceryx.models import encode_route, route_key
from sourcelair.ceryx.validation import clean_writes
from sourcelair.client.arrays import decode_array, decode_pieces
from sourcelair.client.ceryx import RouteChanges, RouteWrite, StoredRoute
from sourcelair.errors import Unreachable
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
    assert list(decode_array(text)) == json.loads(text)


async def pieces_of(text: str, size: int) -> AsyncIterator[str]:
    for at in range(0, len(text), size):
        yield text[at : at + size]


@pytest.mark.parametrize("text", ["[]", " [ ] ", "[1]", "[12, 34]", '[1, "],[" ,\n{"a": [2]}]', '[{"a": "\\\\\\""}] '])
@pytest.mark.parametrize("size", [1, 2, 3, 100])
async def test_arrays_in_pieces_are_decoded_as_json_says(text: str, size: int) -> None:
    """Wherever they are cut; and one that ends too early is an error."""
    assert [item async for item in decode_pieces(pieces_of(text, size))] == json.loads(text)
    for cut in range(len(text.rstrip())):
        with pytest.raises(ValueError):  # noqa: PT011 - json's own
            _ = [item async for item in decode_pieces(pieces_of(text[:cut], size))]
    for wrong in ("{}", "[1, x]", "[1] 2"):
        with pytest.raises(ValueError):  # noqa: PT011 - json's own
            _ = [item async for item in decode_pieces(pieces_of(wrong, size))]


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


async def each(routes: Iterable[StoredRoute]) -> AsyncIterator[StoredRoute]:
    for route in routes:
        yield route


def make_table() -> NodeTable:
    return NodeTable(Resolver(30, system_lookup), Wakers(Resolver(30, system_lookup)))


def stored(revision: int, port: int = 8000) -> list[StoredRoute]:
    return [StoredRoute(**live(name, port).model_dump(), revision=revision) for name in NAMES]


async def test_a_node_goes_through_its_table_in_steps() -> None:
    """A snapshot, what NGINX holds, and the file; what is the same is one object, and is not applied again."""
    table = make_table()
    number, count = await turns(table.snapshot(each(stored(7)), 7))
    assert number == len(table.dirty) == MANY and count >= MANY / 250
    _, count = await turns(table.show_all(list(table.wanted.values()), anew=True))
    assert not table.dirty and count >= 2 * MANY / FEW
    await table.snapshot(each(stored(7)[1:]), 8)
    assert list(table.dirty) == NAMES[:1] and table.wanted[NAMES[0]].state == "deleted"
    assert all(table.wanted[name] is table.shown[name] for name in NAMES[1:])
    other = make_table()
    _, count = await turns(other.load(table.wanted, {}, []))
    assert len(other.wanted) == MANY and count >= MANY / 250


async def test_what_is_wanted_while_a_node_learns_what_it_holds_is_applied() -> None:
    """Wherever in the table it is, and whenever it comes."""
    routes, newer = stored(7), stored(8, 9000)
    for turn in range(2 * MANY // FEW):
        table = make_table()
        await table.snapshot(each(routes), 7)
        showing = asyncio.ensure_future(table.show_all(list(table.wanted.values()), anew=True))
        for _ in range(turn):
            await asyncio.sleep(0)
        assert not showing.done()
        for route in (newer[0], newer[-1]):
            table.want_route(route)
        await showing
        assert set(table.dirty) == {NAMES[0], NAMES[-1]}


async def test_a_snapshot_that_breaks_off_takes_nothing_away() -> None:
    """What came is wanted, what did not is left, and the revision is what it was."""

    async def broken() -> AsyncIterator[StoredRoute]:
        for route in stored(9, 9000)[:10]:
            yield route
        raise Unreachable("gone")

    table = make_table()
    await table.snapshot(each(stored(7)), 7)
    with pytest.raises(Unreachable):
        await table.snapshot(broken(), 9)
    assert table.revision == 7 and len(table.wanted) == MANY
    assert {entry.port for entry in table.wanted.values()} == {8000, 9000}
