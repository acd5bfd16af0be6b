"""Single requests: bodies, headers, streams, hosts that nobody knows, and apps that try tricks."""

from __future__ import annotations

import asyncio
import hashlib
import os
from pathlib import Path

import pytest
from tests.system.site import Site
from tests.system.visitors import Visitor

pytestmark = [pytest.mark.anyio, pytest.mark.system]

HERD = 1000


async def test_an_unknown_host_gets_a_page_that_a_person_understands(site: Site) -> None:
    """503, not 404 (that is an app's own word), and neither a stack trace nor NGINX's own page."""
    answer = await site.fetch("nobody--knows.localhost", headers={"Accept": "text/html"})
    assert answer.status == 503
    assert b"<html" in answer.body.lower()
    assert b"nginx" not in answer.body.lower()


async def test_a_large_post_to_a_sleeping_server_arrives_once(site: Site, tmp_path: Path) -> None:
    """20 MB, byte for byte, exactly once."""
    app = await site.identity("body", "large", tmp_path)
    body = os.urandom(20 << 20)
    answer = await app.fetch("/", method="POST", body=body, headers={"X-Request": "large"})
    assert answer.status == 200
    assert answer.json()["size"] == len(body)
    assert answer.json()["sha256"] == hashlib.sha256(body).hexdigest()
    assert app.requests() == {"large": 1}
    assert len(app.starts()) == 1


async def test_a_visitor_who_leaves_while_held_harms_no_other(site: Site, tmp_path: Path) -> None:
    """Among 40 who wait, half leave before the server is up: the others are answered, by one start."""
    app = await site.identity("leaver", "held", tmp_path, gated=True)
    leaving = [Visitor(site.address, app.host) for _ in range(20)]
    for number, visitor in enumerate(leaving):
        await visitor.send("POST" if number % 2 else "GET", "/", b"x" * 1000 if number % 2 else None)
    staying = [asyncio.create_task(app.fetch(f"/{number}")) for number in range(20)]
    await app.until("starting")
    for visitor in leaving:
        await visitor.close()
    app.let_up()
    answers = await asyncio.gather(*staying)
    assert [answer.status for answer in answers] == [200] * 20
    assert len(app.starts()) == 1


async def test_a_herd_on_a_sleeping_server_makes_one_start(site: Site, tmp_path: Path) -> None:
    """A thousand visitors at once: one start, no error, none lost or doubled."""
    app = await site.identity("herd", "many", tmp_path)
    answers = await asyncio.gather(
        *(app.fetch(f"/{number}", headers={"X-Request": str(number)}) for number in range(HERD))
    )
    assert {answer.status for answer in answers} == {200}
    assert app.requests() == {str(number): 1 for number in range(HERD)}
    assert len(app.starts()) == 1


async def test_an_app_gets_nowhere_with_accel_headers(site: Site, tmp_path: Path) -> None:
    """`X-Accel-Redirect` would reach internal locations, and rewrite another's route: it is ignored."""
    app = await site.identity("accel", "tricks", tmp_path)
    for target in ("/", "/.hemera/", "@gate", "/routes", "/etc/passwd", "/apply"):
        answer = await app.fetch(f"/accel?{target}")
        assert answer.status == 200
        assert answer.json()["target"] == f"/accel?{target}"


async def test_clients_cannot_forge_what_the_proxy_says(site: Site, tmp_path: Path) -> None:
    """`X-Forwarded-*`, `X-Real-IP` and `Forwarded` are overwritten; `Host` goes through with its port."""
    app = await site.identity("forger", "headers", tmp_path)
    forged = {
        "X-Forwarded-For": "6.6.6.6",
        "X-Forwarded-Proto": "https",
        "X-Forwarded-Host": "evil.example",
        "X-Real-IP": "6.6.6.6",
        "Forwarded": "for=6.6.6.6",
    }
    seen = (await app.fetch("/", headers=forged)).json()["headers"]
    fields = {name.lower(): value for name, value in seen}
    assert "6.6.6.6" not in str(seen)
    assert fields["x-forwarded-for"] == fields["x-real-ip"] == "127.0.0.1"
    assert fields["x-forwarded-proto"] == "http"
    assert fields["x-forwarded-host"].startswith(app.host)
    assert fields["host"] == f"{app.host}:{site.address[1]}"


async def test_only_websockets_are_upgraded(site: Site, tmp_path: Path) -> None:
    """`Upgrade: h2c` would tunnel past every rule of the proxy: the app never sees it."""
    app = await site.identity("upgrade", "tunnel", tmp_path)
    headers = {"Upgrade": "h2c", "Connection": "Upgrade, HTTP2-Settings", "HTTP2-Settings": "AAMAAABkAAQAAP__"}
    fields = {name.lower() for name, _ in (await app.fetch("/", headers=headers)).json()["headers"]}
    assert "upgrade" not in fields


async def test_events_arrive_as_they_are_sent(site: Site, tmp_path: Path) -> None:
    """A stream is not buffered: its events come one by one, the first long before the last."""
    app = await site.identity("stream", "events", tmp_path)
    await app.fetch("/")
    reader, writer = await asyncio.open_connection(*site.address)
    writer.write(f"GET /stream?4 HTTP/1.1\r\nHost: {app.host}\r\n\r\n".encode())
    times = []
    for number in range(4):
        await reader.readuntil(f"data: {number}".encode())
        times.append(asyncio.get_running_loop().time())
    writer.close()
    assert times[3] - times[0] > 0.4


async def test_an_app_that_dies_in_the_middle_gives_502_and_no_replay(site: Site, tmp_path: Path) -> None:
    """What had reached an instance is never sent again; the next visit wakes a new one."""
    app = await site.identity("dying", "midway", tmp_path)
    answer = await app.fetch("/die", method="POST", body=b"pay", headers={"X-Request": "payment"})
    assert answer.status == 502
    assert app.requests() == {"payment": 1}
    assert (await app.fetch("/")).status == 200
    assert len(app.starts()) == 2
