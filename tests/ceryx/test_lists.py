"""Many routes: pages that fit together, a part of all by its prefix, and the watch of a part; on both stores."""

from __future__ import annotations

import base64
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.ceryx.agents import live
from tests.ceryx.conftest import Ceryx, listening, running
from tests.ceryx.test_watch import take
from tests.etcd import EtcdCluster, running_etcd, settle

from sourcelair.ceryx.lists import AT_ONCE, Cursor
from sourcelair.client.ceryx import CeryxClient, RouteChanges, RouteWrite
from sourcelair.errors import HistoryCompacted
from sourcelair.store.base import Store
from sourcelair.store.etcd import EtcdStore, parse_address
from sourcelair.store.sqlite import open_sqlite

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdCluster]:
    with running_etcd(tmp_path_factory.mktemp("etcd")) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module", autouse=True)
async def one_loop(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[None]:
    """Keep one event loop for all of these tests: see `settle`."""
    yield
    await settle(tmp_path_factory.mktemp("settle"))


@pytest.fixture(params=["sqlite", "etcd"])
async def ceryx(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Ceryx]:
    store: Store
    if request.param == "etcd":
        cluster: EtcdCluster = request.getfixturevalue("etcd")
        store = EtcdStore(parse_address(cluster.url(f"/{uuid.uuid4().hex}")), "ceryx")
    else:
        store = await open_sqlite(tmp_path / "ceryx.db")
    async with running(tmp_path, store) as ceryx:
        yield ceryx


async def fill(client: CeryxClient, sources: list[str], manager: str | None = None) -> None:
    for at in range(0, len(sources), 100):
        writes = [RouteWrite(source=source, route=live(source)) for source in sources[at : at + 100]]
        await client.batch(writes, managed_by=manager)


async def get(client: CeryxClient, query: str) -> httpx.Response:
    return await client._http.get(f"/api/routes/{query}")


def sources_of(answer: httpx.Response) -> list[str]:
    return [route["source"] for route in answer.json()]


async def test_pages_show_one_revision(ceryx: Ceryx) -> None:
    """Whatever is created, changed and deleted while they are read; each link leads to the next, the last has none."""
    client = ceryx.client()
    names = [f"h{number:02}" for number in range(10)]
    await fill(client, names)
    answer = await get(client, "?limit=4")
    revision = answer.headers["Lair-Revision"]
    found = sources_of(answer)
    for change in (["h00", "h04", "h09"], ["h05x", "a", "z"]):
        assert answer.headers["Link"].endswith('>; rel="next"')
        for source in change:
            await (client.delete_route(source) if source in names else client.put_route(live(source)))
        await client.put_route(live("h08", port=1))
        answer = await get(client, answer.links["next"]["url"])
        assert (answer.status_code, answer.headers["Lair-Revision"]) == (200, revision)
        found += sources_of(answer)
        assert "8000" in answer.json()[-1]["target"]
    assert "Link" not in answer.headers
    assert found == names
    assert sources_of(await get(client, "?limit=100")) == ["a", *names[1:4], *names[5:6], "h05x", *names[6:9], "z"]


@pytest.mark.parametrize(
    ("query", "expected", "pages"),
    [
        ("?prefix=b", [f"b{number}" for number in range(6)], None),
        ("?prefix=B1", ["b1"], None),
        ("?prefix=b&limit=6", [f"b{number}" for number in range(6)], 1),
        ("?prefix=b&limit=4", [f"b{number}" for number in range(6)], 2),
        ("?prefix=b&limit=1&managed_by=m", ["b3", "b4", "b5"], 3),
        ("?managed_by=m&limit=2", ["a3", "a4", "a5", "b3", "b4", "b5"], 3),
        ("?managed_by=m", ["a3", "a4", "a5", "b3", "b4", "b5"], None),
        ("?prefix=nobody&limit=5", [], 1),
        ("?prefix=nobody", [], None),
        ("?prefix=%24&limit=5", ["$wildcard"], 1),
        ("?prefix=b&limit=5&managed_by=another", [], 1),
    ],
)
async def test_a_part_of_all(ceryx: Ceryx, query: str, expected: list[str], pages: int | None) -> None:
    """By the sources' beginning, by manager, by both; whole and in pages."""
    client = ceryx.client()
    await fill(client, ["a1", "a2", "b0", "b1", "b2", "$wildcard"])
    await fill(client, ["a3", "a4", "a5", "b3", "b4", "b5"], "m")
    found, read = list[str](), 0
    following: str | None = query
    while following is not None:
        answer = await get(client, following)
        assert answer.status_code == 200
        found, read = found + sources_of(answer), read + 1
        following = answer.links["next"]["url"] if answer.links else None
    assert found == expected
    assert read == (pages or 1)


async def test_links_keep_what_was_asked_for(ceryx: Ceryx) -> None:
    """Revisions come on every page; and a page may be longer than what is read at once."""
    client = ceryx.client()
    names = sorted(f"n{number}" for number in range(AT_ONCE + 150))
    await fill(client, names)
    first = await get(client, f"?revisions=true&limit={AT_ONCE + 100}&prefix=n")
    second = await get(client, first.links["next"]["url"])
    assert sources_of(first) == names[: AT_ONCE + 100]
    assert sources_of(second) == names[AT_ONCE + 100 :]
    assert all("revision" in route for route in first.json() + second.json())


async def test_a_revision_that_is_gone_is_410(ceryx: Ceryx) -> None:
    """And says what to do; so does one that has yet to come: the cursor is another store's."""
    client = ceryx.client()
    await fill(client, ["a", "b", "c"])
    answer = await get(client, "?limit=1")
    await client.put_route(live("d"))
    assert (await get(client, answer.links["next"]["url"])).status_code == 200
    await ceryx.store.compact(await ceryx.service.revision())
    gone = await get(client, answer.links["next"]["url"])
    assert gone.status_code == 410
    assert gone.json()["detail"].endswith("is no longer kept: begin again without it.")
    assert gone.headers["content-type"] == "application/problem+json"
    future = Cursor(await ceryx.service.revision() + 1000, "a").encode()
    later = await get(client, f"?limit=1&cursor={future}")
    assert (later.status_code, "yet to come" in later.json()["detail"]) == (410, True)


def encoded(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    "cursor",
    ["", "x", "%00", "a" * 5000, "é", encoded("7"), encoded("x a"), encoded("7 -a"), encoded("7 A"), encoded("-1 a"),
     encoded("9999999999999999999 a"), encoded("7 a") + "=", encoded("7 a\n"), encoded("07 a") + "x"],
)  # fmt: skip
async def test_a_broken_cursor_is_400(ceryx: Ceryx, cursor: str) -> None:
    """Whatever it is; never an error of ours."""
    client = ceryx.client()
    await fill(client, ["a", "b"])
    answer = await get(client, f"?limit=1&cursor={cursor}")
    assert (answer.status_code, answer.json()["detail"].startswith("cursor: ")) == (400, True)


@pytest.mark.parametrize(
    ("query", "status", "word"),
    [
        ("?limit=0", 422, "limit"),
        ("?limit=10001", 422, "limit"),
        ("?limit=many", 422, "limit"),
        (f"?cursor={encoded('1 a')}", 422, "limit"),
        (f"?limit=1&prefix=b&cursor={encoded('1 a')}", 400, "another prefix"),
        ("?watch=true&limit=1", 422, "limit"),
        (f"?watch=true&cursor={encoded('1 a')}", 422, "cursor"),
        ("?watch=true&managed_by=m", 422, "managed_by"),
        (f"?prefix={'x' * 2000}", 413, "prefix"),
    ],
)
async def test_what_can_not_be_meant_is_refused(ceryx: Ceryx, query: str, status: int, word: str) -> None:
    """The answer names it."""
    answer = await get(ceryx.client(), query)
    assert (answer.status_code, word in answer.json()["detail"]) == (status, True)


async def test_the_client_reads_in_pages(ceryx: Ceryx, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them at one revision; and begins again where that was forgotten meanwhile, but not for ever."""
    client = ceryx.client()
    await fill(client, ["a1", "a2", "a3", "b1", "b2"])
    pages = [page async for page in client.route_pages(prefix="a", limit=2)]
    assert [[route.source for route in routes] for routes, _ in pages] == [["a1", "a2"], ["a3"]]
    assert {revision for _, revision in pages} == {await ceryx.service.revision()}
    assert all(route.revision <= pages[0][1] for routes, _ in pages for route in routes)

    async with CeryxClient("http://ceryx.test", "service", within=ceryx.app) as within:
        assert [page async for page in within.route_pages(prefix="a", limit=2)] == pages, "without a connection, too"

    monkeypatch.setattr(CeryxClient.route_pages, "__kwdefaults__", {"prefix": "", "limit": 2})
    routes, revision = await client.list_routes(prefix="b")
    assert ([route.source for route in routes], revision) == (["b1", "b2"], pages[0][1])
    request, asked, forgetting = client.request, 0, 1

    async def forget(*arguments: Any, **options: Any) -> httpx.Response:
        nonlocal asked
        answer = await request(*arguments, **options)
        asked += 1
        if asked <= forgetting:
            await ceryx.store.put("/other", b"")
            await ceryx.store.compact(await ceryx.service.revision())
        return answer

    monkeypatch.setattr(client, "request", forget)
    assert [route.source for route in (await client.list_routes())[0]] == ["a1", "a2", "a3", "b1", "b2"]
    assert asked == 4
    forgetting = 1000
    with pytest.raises(HistoryCompacted):
        await client.list_routes()


async def test_a_watch_of_a_prefix_leaves_others_out(ceryx: Ceryx) -> None:
    """But tells of every revision of theirs, so that its reader knows how far it is."""
    async with listening(ceryx):
        client = ceryx.client()
        first = await client.put_route(live("a1"))
        second = (
            await client.batch([RouteWrite(source=source, route=live(source)) for source in ("a2", "b1")])
        ).revision
        third = await client.put_route(live("b2"))
        await client.delete_route("a1")
        params = {"watch": "true", "from": first, "prefix": "A"}
        async with client.events("/api/routes/", params=params) as events:
            changes = [RouteChanges.model_validate_json(event.data) for event in await take(events, 4)]
    assert [change.revision for change in changes][:3] == [first, second, third]
    assert [[(item.source, item.route is None) for item in change.changes] for change in changes] == [
        [("a1", False)],
        [("a2", False)],
        [],
        [("a1", True)],
    ]
