"""Routes of paths and of wildcard hosts: which one a request gets, however it is spelt, and how it waits for it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.ceryx.nginx.conftest import Serve, StartProxy
from tests.ceryx.nginx.test_proxy import mirror
from tests.ceryx.nginx.world import BROWSER, Message, Proxy, Server, Waker, answer, app, until

from sourcelair.ceryx.agent.compiled import compile_settings
from sourcelair.ceryx.table import TableEntry, TableFull
from sourcelair.client.ceryx import RouteSettings

pytestmark = pytest.mark.anyio

HOST = "www.example.com"
STRIP = compile_settings(RouteSettings(strip_prefix=True), flows=True)
"""The settings of a route whose prefix is taken off, in NGINX's words."""


async def put_apps(proxy: Proxy, serve: Serve, *sources: str) -> None:
    """Give each source an app of its own, which answers with the source's name."""
    for number, source in enumerate(sources):
        await proxy.live(source, await serve(app(source)), f"i-{number}")


async def who(proxy: Proxy, host: str, path: str) -> str:
    found = await proxy.request(host, path=path)
    return found.body.decode() if found.status == 200 else found.state


# --- which route


async def test_the_longest_prefix_of_whole_segments_wins(proxy: Proxy, serve: Serve) -> None:
    docs, deep = f"{HOST}/docs", f"{HOST}/docs/api/v1"
    await put_apps(proxy, serve, HOST, docs, deep, f"{HOST}/b%C3%BCcher")
    wanted = {
        "/": HOST,
        "/?docs": HOST,
        "/docs": docs,
        "/docs?x=/docs/api/v1": docs,
        "/docs/": docs,
        "/docs/x/y/z": docs,
        "/docsy": HOST,
        "/doc": HOST,
        "/x/docs": HOST,
        "/DOCS": HOST,
        "/docs/api": docs,
        "/docs/api/v1": deep,
        "/docs/api/v1/x": deep,
        "/docs/api/v10": docs,
        "/b%c3%bccher/x": f"{HOST}/b%C3%BCcher",
        "/.well-known/x": HOST,
        "/docs/" + "x/" * 2000: docs,
    }
    for path, source in wanted.items():
        assert await who(proxy, HOST, path) == source, path
        assert await who(proxy, f"{HOST.upper()}.:80", path) == source, path


async def test_a_host_may_have_routes_for_paths_only(proxy: Proxy, serve: Serve) -> None:
    """What they leave is an unknown host's; and it is one again when the last of them is gone."""
    await put_apps(proxy, serve, f"{HOST}/a", f"{HOST}/b")
    assert await who(proxy, HOST, "/a/x") == f"{HOST}/a"
    assert await who(proxy, HOST, "/") == "unknown-host"
    assert (await proxy.control.hello(1)).routes == 2
    await proxy.put(f"{HOST}/a", "deleted")
    assert (await who(proxy, HOST, "/a"), await who(proxy, HOST, "/b")) == ("unknown-host", f"{HOST}/b")
    assert await proxy.control.read([HOST]) != [None]
    await proxy.put(f"{HOST}/b", "deleted")
    assert await who(proxy, HOST, "/b") == "unknown-host"
    assert (await proxy.control.hello(1)).routes == 0
    assert await proxy.control.read([HOST]) == [None], "the entry that told of paths has gone with the last of them"


async def test_routes_come_and_go_in_any_order(proxy: Proxy, serve: Serve) -> None:
    """A host's own route neither hides nor takes away those of its paths, whichever comes first or goes first."""
    await put_apps(proxy, serve, f"{HOST}/a", HOST)
    assert (await who(proxy, HOST, "/a"), await who(proxy, HOST, "/")) == (f"{HOST}/a", HOST)
    await proxy.put(HOST, "deleted")
    assert (await who(proxy, HOST, "/a"), await who(proxy, HOST, "/")) == (f"{HOST}/a", "unknown-host")
    await put_apps(proxy, serve, HOST)
    await proxy.put(f"{HOST}/a", "deleted")
    assert await who(proxy, HOST, "/a") == HOST
    await proxy.control.apply([TableEntry(f"{HOST}/a", 1, "null")])
    assert await who(proxy, HOST, "/a") == HOST, "an older change brought a deleted route back"


async def test_the_most_specific_host_wins(proxy: Proxy, serve: Serve) -> None:
    """The host itself, the longest wildcard, `$wildcard`; what a host's paths leave goes to the next."""
    sources = (
        "$wildcard",
        "*.example.com",
        "*.b.example.com",
        "a.b.example.com",
        "*.example.com/docs",
        "c.example.com/x",
    )
    await put_apps(proxy, serve, *sources, "$wildcard/.well-known/acme")
    wanted = {
        ("a.b.example.com", "/docs"): "a.b.example.com",
        ("z.b.example.com", "/docs"): "*.b.example.com",
        ("y.z.b.example.com", "/"): "*.b.example.com",
        ("b.example.com", "/"): "*.example.com",
        ("b.example.com", "/docs/x"): "*.example.com/docs",
        ("c.example.com", "/x"): "c.example.com/x",
        ("c.example.com", "/docs"): "*.example.com/docs",
        ("c.example.com", "/"): "*.example.com",
        ("example.com", "/docs"): "$wildcard",
        ("notexample.com", "/"): "$wildcard",
        ("other", "/.well-known/acme/token"): "$wildcard/.well-known/acme",
        ("other", "/docs"): "$wildcard",
        (".".join(["a"] * 300), "/"): "$wildcard",
    }
    for (host, path), source in wanted.items():
        assert await who(proxy, host, path) == source, (host, path)
    await proxy.put("*.b.example.com", "deleted")
    assert await who(proxy, "z.b.example.com", "/docs") == "*.example.com/docs"
    await proxy.put("$wildcard", "deleted")
    assert await who(proxy, "example.com", "/") == "unknown-host"
    assert await who(proxy, "b.example.com", "/") == "*.example.com"


async def test_wildcards_alone_make_no_path_uncertain(proxy: Proxy, serve: Serve) -> None:
    """Where there are no routes of paths, a path is the app's business alone."""
    await put_apps(proxy, serve, "*.example.com", "$wildcard")
    for path in ("/a/../b", "//a", "/a%2f..%2fb", "/x/%2e%2e/y", "/a;b/\\c"):
        assert await who(proxy, "x.example.com", path) == "*.example.com", path
        assert await who(proxy, "elsewhere", path) == "$wildcard", path


@pytest.mark.parametrize("others", [0, 1])
async def test_a_full_table_refuses_a_path_and_nothing_is_left_of_it(start_proxy: StartProxy, others: int) -> None:
    """The first path of a host needs two entries: whichever of them has no room, neither is there afterwards."""
    proxy = await start_proxy(route_table_bytes=1 << 20)
    await proxy.open()
    await proxy.control.apply([TableEntry(f"other{at}", 1, "null") for at in range(others)])
    number = 0
    with pytest.raises(TableFull) as refused:
        while True:
            number += 1
            await proxy.control.apply([TableEntry(f"h{number}/docs", 1, "null")])
    assert refused.value.source == f"h{number}/docs"
    assert await proxy.control.read([f"h{number}", f"h{number}/docs"]) == [None, None]
    assert (await proxy.control.hello(1)).routes == number - 1 + others
    await proxy.control.apply([TableEntry("h1", 2, "null")])
    assert await who(proxy, "h1", "/") == await who(proxy, "h1", "/docs") == "asleep", (
        "what is there is changed in place"
    )


# --- spelling


@pytest.mark.parametrize(
    "path",
    [
        "/x/../docs", "/x/%2e%2e/docs", "/x/..%2fdocs", "/x/.%2E/docs/", "/./docs", "/docs/../x", "/docs/..", "/docs/.",
        "/docs/%2e%2e/%2e%2e/x", "/docs%2f..%2fx", "/..;/docs", "/docs/..;a=b/x", "/x//../docs", "//docs", "///docs/x",
        "/%2fdocs", "/docs%2fx", "/docs%5cx", "/docs\\x", "\\docs", "/\\docs", "/docs;v=1/x", "/docs%3bv=1", "/docs#/x",
        "/docs%2Fapi", "/x\\..\\docs", "/x%5c..%5cdocs", "/;%2fapi/docs", "/;%2f%61pi/docs", "/;v\\x/docs",
        "/%3b%5Cx/docs",
    ],
)  # fmt: skip
async def test_what_leads_to_two_routes_is_refused(proxy: Proxy, serve: Serve, path: str) -> None:
    """No reading of a path gets anybody past a route, or to one: neither app sees such a request."""
    site, docs = await serve(app("site")), await serve(app("docs"))
    await proxy.live(HOST, site, "i-1")
    await proxy.live(f"{HOST}/docs", docs, "i-2")
    found = await proxy.request(HOST, path=path)
    assert found.status == 400
    assert site.requests == docs.requests == []
    if found.state:  # else NGINX itself refuses it
        assert found.json()["state"] == found.state == "ambiguous-path"
        assert (await proxy.request(HOST, path=path, **BROWSER)).status == 400


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("/d%6fcs/x", "docs"),
        ("/%64%6F%63%73", "docs"),
        ("/docs/a%2Fb", "docs"),
        ("/docs//x", "docs"),
        ("/docs/a;b=c", "docs"),
        ("/docs/%20", "docs"),
        ("/x/a%2fb//c;d", "site"),
        ("/docs%20", "site"),
        ("/docs%2561", "site"),
        ("/docs+", "site"),
        ("/a...b/..c/.d", "site"),
    ],
)
async def test_spellings_with_one_reading_pass_as_they_are(proxy: Proxy, serve: Serve, path: str, source: str) -> None:
    """The app sees every character that the visitor sent."""
    await proxy.live(HOST, await serve(mirror()), "i-1")
    await proxy.live(f"{HOST}/docs", await serve(mirror()), "i-2")
    assert (await proxy.request(HOST, path=f"{path}?q=%2e")).json()["first"] == f"GET {path}?q=%2e HTTP/1.1"
    served = [(await proxy.count(instance)).total for instance in ("i-1", "i-2")]
    assert served == ([1, 0] if source == "site" else [0, 1])


PIECES = [
    "/",
    "docs",
    "api",
    "x",
    ".",
    "..",
    "//",
    "%2f",
    "%2F",
    "%2e",
    "\\",
    "%5c",
    ";",
    ";v",
    "%3B",
    "d%6Fcs",
    "%61pi",
    "a",
]


async def test_every_reading_of_a_path_that_passes_leads_to_its_route(start_proxy: StartProxy, serve: Serve) -> None:
    """Whatever an app takes for the same: slashes merged or not, escapes decoded early or late, parameters dropped."""
    proxy = await start_proxy(nginx_workers=1)
    await proxy.open()
    prefixes = {"/docs": "docs", "/docs/api": "api", "/x/docs": "x"}
    await put_apps(proxy, serve, HOST, *(HOST + prefix for prefix in prefixes))
    runner = asyncio.get_running_loop()
    asked = 0

    async def check(path: str) -> None:
        nonlocal asked
        found = await proxy.request(HOST, path=path)
        if found.status == 400:
            return
        asked += 1
        for reading in readings(path):
            assert found.body.decode() == HOST + longest(reading, prefixes), (path, reading)

    @settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(st.sampled_from(PIECES), max_size=7))
    def run(pieces: list[str]) -> None:
        asyncio.run_coroutine_threadsafe(check("/" + "".join(pieces)), runner).result(10)

    await asyncio.to_thread(run)
    assert asked > 30


def longest(path: str, prefixes: dict[str, str]) -> str:
    found = [prefix for prefix in prefixes if path == prefix or path.startswith(f"{prefix}/")]
    return max(found, key=len, default="")


def readings(path: str) -> set[str]:
    """Return what apps may take a path for: each step done or not, in several orders."""

    def without_parameters(text: str) -> str:
        return "/".join(segment.partition(";")[0] for segment in text.split("/"))

    def merged(text: str) -> str:
        while "//" in text:
            text = text.replace("//", "/")
        return text

    def resolved(text: str) -> str:
        kept: list[str] = []
        for segment in text.split("/")[1:]:
            if segment == "..":
                del kept[-1:]
            elif segment != ".":
                kept.append(segment)
        return "/" + "/".join(kept)

    def slashed(text: str) -> str:
        return text.replace("\\", "/")

    steps = (unquote, without_parameters, merged, resolved, slashed)
    found, fresh = {path}, {path}
    while fresh:
        fresh = {step(text) for text in fresh for step in steps if text.count("%25") == 0} - found
        found |= fresh
    # Undecoded, a prefix may be spelt with escapes: the app that compares so has no such path, and gives its 404.
    return {text for text in found if "%" not in text}


# --- what the app sees


async def test_a_prefix_is_taken_off_and_told(proxy: Proxy, serve: Serve) -> None:
    """However it was spelt; the rest stays as it was sent, and there is always a slash."""
    await proxy.live(f"{HOST}/docs/v1", await serve(mirror()), settings=STRIP)
    wanted = {
        "/docs/v1": "/",
        "/docs/v1/": "/",
        "/docs/v1?a=/docs/v1": "/?a=/docs/v1",
        "/docs/v1/x%2Fy//z?q=%20": "/x%2Fy//z?q=%20",
        "/d%6Fcs/v%31/docs/v1": "/docs/v1",
    }
    for path, seen in wanted.items():
        for method, body in (("GET", None), ("POST", b"x" * 100_000)):
            found = (await proxy.request(HOST, method, path, body)).json()
            assert found["first"] == f"{method} {seen} HTTP/1.1", path
            assert [line for line in found["lines"] if line.startswith("X-Forwarded-Prefix")] == [
                "X-Forwarded-Prefix: /docs/v1"
            ]
    forged = (await proxy.request(HOST, path="/docs/v1", X_Forwarded_Prefix="/evil")).json()
    assert "X-Forwarded-Prefix: /docs/v1" in forged["lines"] and "/evil" not in str(forged)


async def test_a_request_target_with_a_host_of_its_own(proxy: Proxy, serve: Serve) -> None:
    """(RFC 9112, 3.2.2) The route is its host's and its path's, and the app gets what is left of the path."""
    await proxy.live(f"{HOST}/docs", await serve(mirror()), settings=STRIP)
    found = await proxy.request("evil.example", path=f"http://{HOST}/docs/x?q=1")
    assert found.json()["first"] == "GET /x?q=1 HTTP/1.1"
    for path in (f"http://{HOST}", f"http://{HOST}?/docs/x"):
        assert (await proxy.request("evil.example", path=path)).state == "unknown-host"


async def test_only_stripped_routes_are_stripped(proxy: Proxy, serve: Serve) -> None:
    await proxy.live(f"{HOST}/docs", await serve(mirror()))
    found = (await proxy.request(HOST, path="/docs/x")).json()
    assert found["first"] == "GET /docs/x HTTP/1.1"
    assert "Prefix" not in str(found)
    await proxy.live(f"{HOST}/docs", await serve(mirror()), settings=STRIP)
    assert (await proxy.request(HOST, path="/docs/x")).json()["first"] == "GET /x HTTP/1.1"
    await proxy.live(f"{HOST}/docs", await serve(mirror()))
    assert (await proxy.request(HOST, path="/docs/x")).json()["first"] == "GET /docs/x HTTP/1.1"


async def test_a_trusted_proxys_prefix_comes_first(start_proxy: StartProxy, serve: Serve) -> None:
    proxy = await start_proxy(trusted_proxies=["127.0.0.1"])
    await proxy.open()
    await proxy.live(f"{HOST}/docs", await serve(mirror()), settings=STRIP)
    found = (await proxy.request(HOST, path="/docs/x", X_Forwarded_Prefix="/outer")).json()
    assert "X-Forwarded-Prefix: /outer/docs" in found["lines"]


@pytest.mark.parametrize("buffering", [None, "none", "request", "response"])
async def test_chunked_bodies_and_websockets_are_stripped_too(
    proxy: Proxy, serve: Serve, buffering: Literal["none", "request", "response"] | None
) -> None:
    server = await serve(mirror())
    settings = compile_settings(RouteSettings(strip_prefix=True, buffering=buffering), flows=True)
    await proxy.live(f"{HOST}/docs", server, settings=settings)
    reader, writer = await proxy.connect()
    writer.write(
        f"POST /docs/up HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        + b"5\r\nhello\r\n0\r\n\r\n"
    )
    await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
    writer.close()
    await proxy.request(HOST, path="/docs/ws", Upgrade="websocket")
    await proxy.request(HOST, path="/docs/events", Accept="text/event-stream")
    await proxy.request(HOST, path="/docs/get")
    await proxy.request(HOST, "POST", path="/docs/known", body=b"hello")
    assert [message.path for message in server.requests] == ["/up", "/ws", "/events", "/get", "/known"]
    assert server.requests[-1].body == b"hello"
    assert server.requests[0].body == b"hello"


@pytest.mark.parametrize(("strip", "seen"), [(None, "/docs/x"), (STRIP, "/x")])
async def test_a_reset_connection_is_repeated_with_the_same_path(
    start_proxy: StartProxy, serve: Serve, strip: str | None, seen: str
) -> None:
    """On a fresh connection, for routes of paths as for others."""
    used: set[asyncio.StreamWriter] = set()

    async def handler(message: Message, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        if writer in used:
            return False
        used.add(writer)
        writer.write(answer(200, message.path))
        return True

    proxy = await start_proxy(nginx_workers=1)
    await proxy.open()
    server = await serve(Server(handler))
    await proxy.live(f"{HOST}/docs", server, settings=strip)
    for _ in range(2):
        assert (await proxy.request(HOST, path="/docs/x")).body.decode() == seen
    assert [message.path for message in server.requests] == [seen] * 3
    await proxy.drained("i-1")


async def test_redirects_of_a_path(proxy: Proxy, serve: Serve) -> None:
    """They keep path and query, without the prefix where that is taken off; `enforce_https` keeps all of it."""
    await proxy.put(f"{HOST}/old", "redirect", location="https://new.example/base")
    await proxy.put(f"{HOST}/docs", "redirect", location="https://docs.example/manual", settings=STRIP)
    await proxy.live(f"{HOST}/safe", await serve(), enforce_https=True, settings=STRIP)
    wanted = {
        "/old/x?q=1": "https://new.example/base/old/x?q=1",
        "/docs/x?q=1": "https://docs.example/manual/x?q=1",
        "/docs": "https://docs.example/manual/",
        "/docs//evil.example": "https://docs.example/manual//evil.example",
        "/safe/x?q=1": f"https://{HOST}/safe/x?q=1",
    }
    for path, location in wanted.items():
        found = await proxy.request(HOST, path=path)
        assert (found.status, found.headers.get("location")) == (301, location), path


async def test_the_access_log_shows_what_was_asked_for(start_proxy: StartProxy, serve: Serve) -> None:
    proxy = await start_proxy()
    await proxy.open()
    await proxy.live(f"{HOST}/docs", await serve(mirror()), settings=STRIP)
    await proxy.request(HOST, path="/docs/x")
    await proxy.request(HOST, path="/docs/../x")
    log = Path(proxy.settings.data_dir) / "logs" / "access.log"
    await until(lambda: log.exists() and log.read_text().count("\n") == 2)
    lines = (json.loads(line) for line in log.read_text().splitlines())
    first, second = sorted(lines, key=lambda line: line["status"])  # each worker writes its own when it likes
    assert (first["host"], first["path"], first["status"]) == (HOST, "/docs/x", "200")
    assert (second["path"], second["status"], second["state"]) == ("/x", "400", "ambiguous-path")


# --- waiting


async def test_a_path_waits_for_its_own_route(proxy: Proxy, waker: Waker, serve: Serve) -> None:
    """Its waker hears which one; the host's own is another story, and so is its crowd."""
    for source in (HOST, f"{HOST}/docs", f"{HOST}/docs/api"):
        await proxy.put(source, waker=waker.url)
    held = {path: asyncio.create_task(proxy.request(HOST, path=path)) for path in ("/", "/docs/x", "/docs/api/y?z")}
    await until(lambda: len(waker.wakes) == 3)
    assert {(wake["source"], wake["path"]) for wake in waker.wakes} == {
        (HOST, "/"),
        (f"{HOST}/docs", "/docs/x"),
        (f"{HOST}/docs/api", "/docs/api/y"),
    }
    assert all("route" not in wake for wake in waker.wakes)
    await proxy.live(f"{HOST}/docs", await serve(app("docs")), "i-docs", settings=STRIP)
    assert (await held["/docs/x"]).body == b"docs"
    assert not held["/"].done() and not held["/docs/api/y?z"].done()
    await proxy.live(HOST, await serve(app("site")), "i-site")
    assert (await held["/"]).body == b"site"
    await proxy.live(f"{HOST}/docs/api", await serve(app("api")), "i-api")
    assert (await held["/docs/api/y?z"]).body == b"api"
    assert len(waker.wakes) == 3


async def test_a_herd_on_a_path_makes_one_wake(proxy: Proxy, waker: Waker, serve: Serve) -> None:
    server = await serve(Server(app("docs").handler, backlog=5))

    async def wake(_: dict[str, Any]) -> bytes:
        revision = await proxy.live(f"{HOST}/docs", server, waker=waker.url, settings=STRIP)
        return answer(200, json.dumps({"instance": "i-1", "revision": revision}))

    waker.on_wake = wake
    await proxy.put(f"{HOST}/docs", waker=waker.url, settings=STRIP)
    found = await asyncio.gather(*(proxy.request(HOST, "POST", f"/docs/{n}", b"x" * 2000) for n in range(300)))
    assert {message.status for message in found} == {200}
    assert sorted(message.path for message in server.requests) == sorted(f"/{n}" for n in range(300))
    assert len(waker.wakes) == 1
    await proxy.drained("i-1")


async def test_who_waits_goes_where_a_new_route_says(proxy: Proxy, waker: Waker, serve: Serve) -> None:
    """A longer prefix that comes meanwhile takes those over that are its own, and one that goes gives them back."""
    await proxy.put(HOST, waker=waker.url)
    held = [asyncio.create_task(proxy.request(HOST, path=path)) for path in ("/docs/x", "/x")]
    await until(lambda: len(waker.wakes) == 1)
    await proxy.put(f"{HOST}/docs", waker=waker.url)
    await until(lambda: len(waker.wakes) == 2)
    assert waker.wakes[1]["source"] == f"{HOST}/docs"
    await proxy.put(f"{HOST}/docs", "deleted")
    await proxy.live(HOST, await serve(app("site")))
    assert {(await request).body for request in held} == {b"site"}


async def test_who_waits_for_a_wildcard_goes_where_its_host_is(proxy: Proxy, waker: Waker, serve: Serve) -> None:
    """The waker hears the host that was asked for, and the route by which it was: it may publish either."""
    await proxy.put("*.example.com", waker=waker.url)
    await proxy.put("*.example.com/docs", waker=waker.url)
    one = asyncio.create_task(proxy.request("a.example.com"))
    two = asyncio.create_task(proxy.request("b.example.com"))
    three = asyncio.create_task(proxy.request("c.example.com", path="/docs/x"))
    await until(lambda: len(waker.wakes) == 3)
    assert {(wake["source"], wake["route"]) for wake in waker.wakes} == {
        ("a.example.com", "*.example.com"),
        ("b.example.com", "*.example.com"),
        ("c.example.com/docs", "*.example.com/docs"),
    }
    await proxy.live("a.example.com", await serve(app("own")), "i-1")
    assert (await one).body == b"own"
    await proxy.live("c.example.com/docs", await serve(app("own docs")), "i-3")
    assert (await three).body == b"own docs"
    await proxy.live("*.example.com", await serve(app("all")), "i-2", waker=waker.url)
    assert (await two).body == b"all"


async def test_a_failed_wake_of_one_path_ends_nobody_elses_wait(proxy: Proxy, waker: Waker, serve: Serve) -> None:
    async def fail(order: dict[str, Any]) -> bytes:
        if order["source"] == HOST:
            return await waker.still_starting(order)
        return answer(503, json.dumps({"detail": "broken docs"}), Content_Type="application/problem+json")

    waker.on_wake = fail
    for source in (HOST, f"{HOST}/docs"):
        await proxy.put(source, waker=waker.url)
    site = asyncio.create_task(proxy.request(HOST))
    await until(lambda: len(waker.wakes) == 1)
    found = await proxy.request(HOST, path="/docs")
    assert (found.status, found.json()["detail"]) == (503, "broken docs")
    await proxy.live(HOST, await serve(app("site")))
    assert (await site).body == b"site"


@pytest.mark.parametrize("strip", [None, STRIP])
async def test_a_refused_connection_names_the_paths_route(
    proxy: Proxy, waker: Waker, serve: Serve, strip: str | None
) -> None:
    dead = await app("dead").start()
    await dead.stop()
    await proxy.live(HOST, await serve(app("site")), "i-1")
    await proxy.live(f"{HOST}/docs", dead, "i-2", waker=waker.url, settings=strip)
    held = asyncio.create_task(proxy.request(HOST, path="/docs/x"))
    await until(lambda: len(waker.wakes) == 1)
    wake = waker.wakes[0]
    assert (wake["source"], wake["reason"], wake["instance"]) == (f"{HOST}/docs", "unreachable", "i-2")
    await proxy.live(f"{HOST}/docs", await serve(app("again")), "i-3", waker=waker.url, settings=strip)
    assert (await held).body == b"again"


async def test_the_page_and_the_visitors_side_name_the_paths_route(proxy: Proxy, waker: Waker) -> None:
    """Under /.hemera/ the argument `path` says for which, and without it the host's own is meant."""
    for source in (HOST, f"{HOST}/docs"):
        await proxy.put(source, waker=waker.url)
    page = await proxy.request(HOST, path="/docs/x?q=1", **BROWSER)
    assert page.body.decode() == f"PAGE /waker/page?source={HOST}%2Fdocs&path=%2Fdocs%2Fx%3Fq%3D1"
    assert waker.requests[-1].headers["lair-source"] == f"{HOST}/docs"
    for path, source in {
        "/.hemera/state": HOST,
        "/.hemera/state?path=/docs/x": f"{HOST}/docs",
        "/.hemera/state?path=%2Fdocs%2Fx%3Fq": f"{HOST}/docs",
        "/%2ehemera/state?path=/x": HOST,
    }.items():
        await proxy.request(HOST, path=path)
        assert waker.requests[-1].headers["lair-source"] == source, path
    assert (await proxy.request(HOST, path="/.hemera/state?path=/docs/../x")).status == 400


# --- nothing is lost


@pytest.mark.parametrize("strip", [None, STRIP])
async def test_withdrawals_of_a_path_lose_nothing(
    start_proxy: StartProxy, waker: Waker, serve: Serve, strip: str | None
) -> None:
    """With a stall between look-up and count, and while a longer prefix comes and goes.

    No request reaches an instance after its count was zero, and none fails.
    """
    proxy = await start_proxy(stall=0.01, nginx_workers=2, patience=5, wake_timeout=20)
    await proxy.open(waker)
    over = asyncio.Event()
    statuses: list[int] = []

    async def visit(path: str) -> None:
        while not over.is_set():
            statuses.append((await proxy.request(HOST, path=path)).status)

    source = f"{HOST}/docs"
    gone: list[tuple[Server, int]] = []
    await proxy.live(HOST, await serve(app("site")), "i-site")
    server = await serve()
    await proxy.live(source, server, "i-0", waker=waker.url, settings=strip)
    visitors = [asyncio.create_task(visit(path)) for path in ("/docs/a", "/docs/b")]
    try:
        for cycle in range(1, 60):
            if cycle % 3 == 0:
                await proxy.live(f"{source}/a", await serve(), f"a-{cycle}")
            await proxy.put(source, waker=waker.url, settings=strip)
            async with asyncio.timeout(10):
                while (await proxy.count(f"i-{cycle - 1}")).in_flight:
                    await asyncio.sleep(0)
            gone.append((server, len(server.requests)))
            if cycle % 3 == 0:
                await proxy.put(f"{source}/a", "deleted")
            server = await serve()
            await proxy.live(source, server, f"i-{cycle}", waker=waker.url, settings=strip)
            async with asyncio.timeout(10):  # all cycles are of use: somebody was there before it goes again
                while not server.requests:
                    await asyncio.sleep(0.001)
    finally:
        over.set()
        await asyncio.gather(*visitors)
    assert set(statuses) == {200}
    assert [len(old.requests) for old, _ in gone] == [seen for _, seen in gone]
    assert proxy.errors() == []


async def test_a_table_that_is_filled_again_is_not_believed_too_early(
    start_proxy: StartProxy, waker: Waker, serve: Serve
) -> None:
    """A wildcard may have a host or a path that is still to come, so nobody goes there before the table is complete."""
    proxy = await start_proxy(patience=0.1, wake_timeout=5)
    await proxy.control.hello(1)
    await proxy.live("*.example.com", await serve(app("all")), "i-1")
    await proxy.live("$wildcard", await serve(app("rest")), "i-2")
    held = asyncio.create_task(proxy.request(HOST, path="/docs"))
    await until(lambda: _held(proxy))
    await proxy.live(f"{HOST}/docs", await serve(app("docs")), "i-3")
    assert (await held).body == b"docs"
    await proxy.control.set_loaded("local", waker.url, None)
    assert (await proxy.request(HOST)).body == b"all"


async def _held(proxy: Proxy) -> bool:
    return (await proxy.control.hello(1)).held == 1
