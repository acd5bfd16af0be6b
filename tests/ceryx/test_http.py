"""The original's API: shapes, codes, and what is refused."""

from __future__ import annotations

import re
from typing import Any

import httpx
import pytest
from tests.ceryx.conftest import Ceryx

from sourcelair.client.ceryx import Route, RouteSettings
from sourcelair.errors import NotFound

pytestmark = pytest.mark.anyio

SETTINGS = {"enforce_https": False, "mode": "proxy", "certificate_path": None, "key_path": None}


def http(ceryx: Ceryx, token: str | None = "admin") -> httpx.AsyncClient:
    return ceryx.client(token)._http


async def test_a_route_lives_as_in_the_original(ceryx: Ceryx) -> None:
    """POST 201, GET 200, PUT 200, list 200, DELETE 204: with exactly the original's bodies."""
    async with http(ceryx) as api:
        expected = {"source": "a.example.com", "target": "http://10.0.0.1:8000", "settings": SETTINGS}
        created = await api.post("/api/routes/", json={"source": "a.example.com", "target": "10.0.0.1:8000"})
        assert (created.status_code, created.json()) == (201, expected)
        got = await api.get("/api/routes/a.example.com/")
        assert (got.status_code, got.json()) == (200, expected)
        expected["target"] = "https://10.0.0.2:8443"
        put = await api.put("/api/routes/a.example.com/", json={"target": "https://10.0.0.2:8443"})
        assert (put.status_code, put.json()) == (200, expected)
        listed = await api.get("/api/routes/")
        assert (listed.status_code, listed.json()) == (200, [expected])
        deleted = await api.delete("/api/routes/a.example.com/")
        assert (deleted.status_code, deleted.content) == (204, b"")
        assert (await api.delete("/api/routes/a.example.com/")).status_code == 204
        missing = await api.get("/api/routes/a.example.com/")
        assert missing.status_code == 404
        assert missing.json()["detail"] == "No route found for a.example.com."
        assert missing.headers["content-type"] == "application/problem+json"
        assert (await api.get("/api/routes/")).json() == []


async def test_post_and_put_both_create_and_overwrite(ceryx: Ceryx) -> None:
    """Neither minds whether the route is there; the answer's code depends on the method alone."""
    async with http(ceryx) as api:
        for target in ("http://one:1", "http://two:2"):
            assert (await api.post("/api/routes/", json={"source": "p", "target": target})).status_code == 201
            assert (await api.put("/api/routes/q/", json={"target": target})).status_code == 200
        assert [route["target"] for route in (await api.get("/api/routes/")).json()] == ["http://two:2"] * 2


@pytest.mark.parametrize("slash", ["", "/"])
async def test_the_last_slash_is_optional(ceryx: Ceryx, slash: str) -> None:
    """Every path answers with and without it, and never with a redirect."""
    async with http(ceryx) as api:
        route = {"source": "s.example.com", "target": "http://h:1"}
        assert (await api.post(f"/api/routes{slash}", json=route)).status_code == 201
        assert (await api.get(f"/api/routes{slash}")).status_code == 200
        assert (await api.put(f"/api/routes/s.example.com{slash}", json=route)).status_code == 200
        assert (await api.get(f"/api/routes/s.example.com{slash}")).status_code == 200
        assert (await api.delete(f"/api/routes/s.example.com{slash}")).status_code == 204
        assert (await api.get(f"/api/nodes{slash}")).json() == []


async def test_extensions_show_only_where_they_are_set(ceryx: Ceryx) -> None:
    """Null targets, wakers and instances come back; what is null stays out of the answer."""
    async with http(ceryx) as api:
        body: dict[str, Any] = {
            "source": "$wildcard",
            "target": None,
            "waker": "http://127.0.0.1:7070/waker/",
            "instance": "i-1",
        }
        answer = await api.post("/api/routes/", json=body)
        assert answer.json() == {**body, "waker": "http://127.0.0.1:7070/waker", "settings": SETTINGS}
        assert (await api.get("/api/routes/$wildcard/")).json() == answer.json()
        assert (await api.get("/api/routes/%24wildcard")).status_code == 200


async def test_sources_are_stored_in_one_form(ceryx: Ceryx) -> None:
    """However a host is written, it is one route."""
    async with http(ceryx) as api:
        await api.post("/api/routes/", json={"source": "Blog.Example.COM.:8080", "target": "http://h:1"})
        await api.put("/api/routes/BLOG.example.com/", json={"source": "blog.example.com.", "target": "http://h:2"})
        assert [route["source"] for route in (await api.get("/api/routes/")).json()] == ["blog.example.com"]
        assert (await api.get("/api/routes/blog.EXAMPLE.com")).json()["target"] == "http://h:2"


@pytest.mark.parametrize(
    "spelling", ["www.example.com%2Fdocs%2Fv1/", "www.example.com/docs/v1", "WWW.example.com./docs%2Fv%31/"]
)
async def test_a_source_with_a_path_is_one_name(ceryx: Ceryx, spelling: str) -> None:
    """Its slashes may be escaped, as in one segment, or not; the typed client escapes them."""
    source = "www.example.com/docs/v1"
    async with http(ceryx) as api:
        body = {"target": "http://h:1", "settings": {"strip_prefix": True}}
        put = await api.put(f"/api/routes/{spelling}", json=body)
        shown = {"source": source, "target": "http://h:1", "settings": SETTINGS | {"strip_prefix": True}}
        assert (put.status_code, put.json()) == (200, shown)
        assert (await api.get(f"/api/routes/{spelling}")).json() == shown
        assert (await api.get("/api/routes/www.example.com/")).status_code == 404
        assert (await api.get("/api/routes/www.example.com/docs/")).status_code == 404
        client = ceryx.client()
        assert (await client.get_route(source)).settings.strip_prefix
        off = Route(source=source, target="http://h:2", settings=RouteSettings(strip_prefix=False))
        await client.put_route(off, expect=int(put.headers["etag"].strip('"')))
        assert (await api.get("/api/routes/")).json() == [shown | {"target": "http://h:2", "settings": SETTINGS}]
        assert (await api.delete(f"/api/routes/{spelling}")).status_code == 204
        assert (await api.get("/api/routes/")).json() == []


@pytest.mark.parametrize("source", ["*.example.com", "*.example.com/docs", "$wildcard/.well-known/acme-challenge"])
async def test_wildcards_are_sources_like_any(ceryx: Ceryx, source: str) -> None:
    client = ceryx.client()
    revision = await client.put_route(
        Route(source=source.upper().replace("DOCS", "docs") if "$" not in source else source)
    )
    assert (await client.get_route(source)).revision == revision
    await client.delete_route(source)
    with pytest.raises(NotFound, match=f"No route found for {re.escape(source)}"):
        await client.get_route(source)


async def test_put_refuses_a_body_of_another_source(ceryx: Ceryx) -> None:
    """The path names the route; a body that disagrees is a mistake that must not go unnoticed."""
    async with http(ceryx) as api:
        answer = await api.put("/api/routes/a/", json={"source": "b", "target": "http://h:1"})
        assert answer.status_code == 422
        assert "'b'" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({"target": "http://h:1"}, "source"),
        ({"source": "a.example/x/../y", "target": "http://h:1"}, "source"),
        ({"source": "*.1.2.3.4", "target": "http://h:1"}, "source"),
        ({"source": "a", "target": "http://h:1", "settings": {"strip_prefix": True}}, "settings.strip_prefix"),
        ({"source": "", "target": "http://h:1"}, "source"),
        ({"source": "a b", "target": "http://h:1"}, "source"),
        ({"source": "a\r\nb", "target": "http://h:1"}, "source"),
        ({"source": "[::1\r\nx]", "target": "http://h:1"}, "source"),
        ({"source": "-a.example.com", "target": "http://h:1"}, "source"),
        ({"source": "x" * 300, "target": "http://h:1"}, "source"),
        ({"source": 7, "target": "http://h:1"}, "source"),
        ({"source": "a", "target": "ftp://h:1"}, "http://"),
        ({"source": "a", "target": "http://"}, "host:port"),
        ({"source": "a", "target": ""}, "host:port"),
        ({"source": "a", "target": "http://h:0"}, "host:port"),
        ({"source": "a", "target": "http://h:"}, "host:port"),
        ({"source": "a", "target": "http://h:99999"}, "target"),
        ({"source": "a", "target": "http://h:x"}, "target"),
        ({"source": "a", "target": "http://[::1"}, "target"),
        ({"source": "a", "target": "http://[fe80::1%25eth0]:80"}, "target"),
        ({"source": "a", "target": "http://u:p@h:1"}, "user name"),
        ({"source": "a", "target": "http://h:1/path"}, "path"),
        ({"source": "a", "target": "http://h:1?q"}, "query"),
        ({"source": "a", "target": "http://h:1#f"}, "fragment"),
        ({"source": "a", "target": "http://h:1\r\nX: y"}, "control"),
        ({"source": "a", "target": "http://h h:1"}, "space"),
        ({"source": "a", "target": "http://h\\h:1"}, "host name"),
        ({"source": "a", "target": "http://h:1" + "0" * 3000}, "characters"),
        ({"source": "a", "settings": {"mode": "redirect"}}, "redirect"),
        ({"source": "a", "target": "http://h:1", "settings": {"mode": "tunnel"}}, "settings.mode"),
        ({"source": "a", "target": "http://h:1", "settings": {"colour": "red"}}, "settings.colour"),
        ({"source": "a", "target": "http://h:1", "settings": {"buffering": "all"}}, "settings.buffering"),
        ({"source": "a", "target": "http://h:1", "settings": {"key_path": "/a\nb"}}, "key_path"),
        ({"source": "a", "target": "http://h:1", "settings": None}, "settings"),
        ({"source": "a", "target": "http://h:1", "ttl": 5}, "ttl"),
        ({"source": "a", "target": None, "waker": "unix:/x"}, "waker"),
        ({"source": "a", "target": None, "waker": "http://h/\r\n"}, "waker"),
        ({"source": "a", "target": None, "instance": "a\nb"}, "instance"),
        ({"source": "a", "target": None, "managed_by": "me"}, "managed_by"),
    ],
)
async def test_bad_routes_are_refused_with_the_field(ceryx: Ceryx, body: dict[str, Any], word: str) -> None:
    """422, naming what is wrong, and nothing is stored."""
    async with http(ceryx) as api:
        answer = await api.post("/api/routes/", json=body)
        assert answer.status_code == 422, answer.text
        assert word in answer.json()["detail"]
        assert (await api.get("/api/routes/")).json() == []


@pytest.mark.parametrize(
    ("target", "mode", "stored"),
    [
        ("h", "proxy", "http://h"),
        ("h:1", "proxy", "http://h:1"),
        ("HTTP://H:1/", "proxy", "http://h:1"),
        ("[::1]:3000", "proxy", "http://[::1]:3000"),
        ("http://[0:0::1]", "proxy", "http://[::1]"),
        ("https://my_service:443", "proxy", "https://my_service:443"),
        ("example.org/new/", "redirect", "http://example.org/new"),
    ],
)
async def test_targets_get_one_form(ceryx: Ceryx, target: str, mode: str, stored: str) -> None:
    """The scheme is added, a bare slash dropped; only redirects keep a path."""
    async with http(ceryx) as api:
        body = {"source": "a", "target": target, "settings": {"mode": mode}}
        assert (await api.post("/api/routes/", json=body)).json()["target"] == stored


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b'{"a": NaN}', b"[" * 60_000, b'{"source": "\\ud800"}'])
async def test_what_is_not_json_is_a_bad_request(ceryx: Ceryx, body: bytes) -> None:
    """400, whatever is wrong with it."""
    async with http(ceryx) as api:
        answer = await api.post("/api/routes/", content=body)
        assert answer.status_code == 400, answer.text
        assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("body", [b"[]", b"null", b'"x"', b"7"])
async def test_json_of_another_shape_is_invalid(ceryx: Ceryx, body: bytes) -> None:
    """422 for POST, PUT and batches."""
    async with http(ceryx) as api:
        assert (await api.post("/api/routes/", content=body)).status_code == 422
        assert (await api.put("/api/routes/a/", content=body)).status_code == 422
        assert (await api.post("/api/routes:batch", content=body)).status_code == 422


async def test_ten_megabytes_are_refused_while_they_come(ceryx: Ceryx) -> None:
    """413 after the first bytes over the limit, whether the length was declared or not."""
    taken = 0

    async def stream() -> Any:
        nonlocal taken
        for _ in range(10 << 10):
            taken += 1024
            yield b" " * 1024

    async with http(ceryx) as api:
        assert (await api.post("/api/routes/", content=stream())).status_code == 413
        assert taken <= 100 << 10
        assert (await api.post("/api/routes/", content=b" " * (10 << 20))).status_code == 413
        assert (await api.put("/api/routes/a/", content=b" " * (10 << 20))).status_code == 413


async def test_etags_and_if_match(ceryx: Ceryx) -> None:
    """A revision that is not the current one is 412 and says which is; the current one passes."""
    async with http(ceryx) as api:
        body = {"source": "a", "target": "http://h:1"}
        created = await api.post("/api/routes/", json=body, headers={"If-None-Match": "*"})
        tag = created.headers["etag"]
        assert (await api.get("/api/routes/a/")).headers["etag"] == tag
        assert (await api.post("/api/routes/", json=body, headers={"If-None-Match": "*"})).status_code == 412
        newer = await api.put("/api/routes/a/", json=body, headers={"If-Match": tag})
        stale = await api.put("/api/routes/a/", json=body, headers={"If-Match": tag})
        assert (newer.status_code, stale.status_code) == (200, 412)
        assert stale.json()["revision"] == int(newer.headers["etag"].strip('"'))
        assert (await api.put("/api/routes/a/", json=body, headers={"If-Match": "*"})).status_code == 200
        assert (
            await api.put("/api/routes/b/", json=body | {"source": "b"}, headers={"If-Match": "*"})
        ).status_code == 412
        assert (
            await api.put("/api/routes/b/", json=body | {"source": "b"}, headers={"If-Match": '"0"'})
        ).status_code == 200
        assert (await api.delete("/api/routes/a/", headers={"If-Match": tag})).status_code == 412
        assert (await api.put("/api/routes/a/", json=body, headers={"If-Match": "x"})).status_code == 400


async def test_lists_carry_revisions_where_asked(ceryx: Ceryx) -> None:
    """`Lair-Revision` says when the list was read, `?revisions=true` when each route was written."""
    client = ceryx.client()
    first = await client.put_route(await _route("a"))
    second = await client.put_route(await _route("b"))
    routes, revision = await client.list_routes()
    assert [(route.source, route.revision) for route in routes] == [("a", first), ("b", second)]
    assert revision == second


async def _route(source: str) -> Any:
    from sourcelair.client.ceryx import Route

    return Route(source=source, target="http://10.0.0.1:80")


async def test_a_long_list_comes_whole(ceryx: Ceryx) -> None:
    """More routes than one page, in the order of their names, as one JSON array."""
    from sourcelair.client.ceryx import RouteWrite

    client = ceryx.client()
    names = [f"r{number:05}" for number in range(1234)]
    await client.batch([RouteWrite(source=name, route=await _route(name)) for name in names])
    routes, _ = await client.list_routes()
    assert [route.source for route in routes] == names
    assert ceryx.service.routes.count == len(names)


async def test_a_list_of_one_managers_routes(ceryx: Ceryx) -> None:
    """`?managed_by=M` gives what that manager wrote, from whichever page, and an empty list where that is nothing."""
    from sourcelair.client.ceryx import RouteWrite
    from sourcelair.errors import InvalidInput

    client = ceryx.client("service")
    names = [f"r{number:05}" for number in range(1234)]
    await client.batch([RouteWrite(source=name, route=await _route(name)) for name in names])
    await client.batch([RouteWrite(source=name, route=await _route(name)) for name in ("q", "s")], managed_by="m")
    routes, _ = await client.list_routes("m")
    assert [route.source for route in routes] == ["q", "s"]
    assert (await client.list_routes("another"))[0] == []
    with pytest.raises(InvalidInput, match="managed_by"):
        await client.request("GET", "/api/routes/", params={"managed_by": "m", "watch": "true"})
    assert len((await client.list_routes())[0]) == len(names) + 2


@pytest.mark.parametrize(
    ("token", "read", "write", "node"),
    [
        (None, 401, 401, 401),
        ("admin", 200, 201, 200),
        ("service", 200, 201, 200),
        ("read", 200, 403, 403),
        ("owner", 403, 403, 403),
        ("waker", 403, 403, 403),
    ],
)
async def test_who_may_do_what(ceryx: Ceryx, token: str | None, read: int, write: int, node: int) -> None:
    """Reading needs a token that reads all; writing and speaking for a node an admin or service one."""
    async with http(ceryx, token) as api:
        assert (await api.get("/api/routes/")).status_code == read
        assert (await api.post("/api/routes/", json={"source": "a", "target": "http://h:1"})).status_code == write
        assert (await api.put("/api/nodes/n1/")).status_code == node
        assert (await api.post("/api/activity", json={"instances": []})).status_code == read
        assert (await api.get("/api/instances/i/withdrawal", params={"revision": 1})).status_code == read


async def test_the_api_describes_itself(ceryx: Ceryx) -> None:
    """The OpenAPI page holds every path, with the bodies that are read by hand."""
    paths = ceryx.app.openapi()["paths"]
    body = paths["/api/routes/"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert set(body["properties"]) == {"source", "target", "settings", "waker", "instance", "managed_by"}
    assert "/api/routes:batch" in paths and "/api/routes/{source}" not in paths
