"""Frameworks that people use, as they start them: created by the command line, cold, warm, asleep, woken again."""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from pathlib import Path

import pytest
import websockets
from tests.system.environments import NODE, node_modules, python
from tests.system.lair import Lair
from tests.system.site import Site
from tests.system.visitors import Visitor
from websockets.typing import Origin, Subprotocol

# The first run makes their environments.
pytestmark = [pytest.mark.anyio, pytest.mark.system, pytest.mark.timeout(500)]

IDLE = "1s"
"""Time without activity before these servers sleep."""

EXPRESS = """
const express = require(process.env.EXPRESS);
const app = express();
app.use(express.json());
app.use('/assets', express.static('assets'));
app.get('/hello/:name', (request, response) => response.json({ name: request.params.name, q: request.query.q }));
app.post('/sum', (request, response) => response.json({ sum: request.body.reduce((a, b) => a + b, 0) }));
app.listen(process.env.PORT, '127.0.0.1');
"""

DJANGO = """
from django.http import HttpResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt

VERSION = "{version}"

@csrf_exempt
def page(request):
    return HttpResponse(f"version {{VERSION}} {{request.method}} {{request.get_full_path()}} {{len(request.body)}}")

urlpatterns = [path("shop/", page)]
"""

STREAMLIT = """
import streamlit
streamlit.title("a title")
streamlit.write(f"seen by {streamlit.query_params.get('who')}")
"""

RERUN = bytes([11 << 3 | 2, 7, 1 << 3 | 2, 5]) + b"who=x"
"""A browser's first message to Streamlit: `BackMsg.rerun_script`, with the query of its URL (protobuf)."""


async def instance_of(site: Site, project: str) -> str:
    """Return the id of a server's instance."""
    instance = (await site.until("real", project, "awake")).instance
    assert instance is not None
    return instance.id


async def test_express(site: Site, tmp_path: Path) -> None:
    """A cold POST of JSON, a path with a query, a static file; asleep when idle; woken by the path with its query."""
    (tmp_path / "server.js").write_text(EXPRESS)
    (tmp_path / "assets").mkdir()
    (tmp_path / "assets" / "style.css").write_text("h1 {}")
    env = [f"EXPRESS={node_modules('express') / 'express'}"]
    await site.create("real/express", [str(NODE), "server.js"], tmp_path, idle=IDLE, env=env)
    host = site.host("real", "express")
    headers = {"Content-Type": "application/json"}
    answer = await site.fetch(host, "/sum", method="POST", body=b"[1, 2, 39]", headers=headers)
    assert answer.json() == {"sum": 42}
    first = await instance_of(site, "express")
    style = await site.fetch(host, "/assets/style.css")
    assert (style.body, style.headers["content-type"]) == (b"h1 {}", "text/css; charset=utf-8")
    assert (await site.fetch(host, "/nowhere")).status == 404
    await site.until("real", "express", "asleep")
    assert (await site.fetch(host, "/hello/ada?q=a%20b")).json() == {"name": "ada", "q": "a b"}
    assert await instance_of(site, "express") != first


class Shoppers:
    """Visitors of the Django server: each comes again and again, and notes what it got."""

    def __init__(self, site: Site, host: str) -> None:
        self.site, self.host = site, host
        self.seen: list[str] = []
        self.broken = 0
        self.failures: list[str] = []
        self.done = asyncio.Event()

    async def visit(self) -> None:
        visitor = Visitor(self.site.address, self.host)
        while not self.done.is_set():
            method = "POST" if len(self.seen) % 2 else "GET"
            body = b"x" * 3000 if method == "POST" else None
            answer = await visitor.ask(method, "/shop/?a=1", body)
            if answer.status == 200:
                self.seen.append(answer.body.decode())
            elif (answer.status, answer.headers.get("lair-state")) == (502, "broken"):
                self.broken += 1
            else:
                self.failures.append(f"{answer.status} {answer.body[:300]!r}")
            await asyncio.sleep(0.02)
        await visitor.close()

    async def until(self, version: str, edited: Path) -> None:
        """Wait until somebody saw this version of a file.

        It is saved again now and then: Django never sees what was saved before its reloader looked for the first time.
        """
        async with asyncio.timeout(40):
            saved = time.monotonic()
            while not (self.seen and self.seen[-1].startswith(f"version {version} ")):
                await asyncio.sleep(0.02)
                if time.monotonic() > saved + 3:
                    edited.touch()
                    saved = time.monotonic()


async def test_django_reloads_under_traffic(site: Site, lair: Lair, tmp_path: Path) -> None:
    """`runserver` drops its listener at each edit: visitors wait those moments, and it stays the same instance.

    What is inside Django in the moment in which it ends itself is broken off by it: one request of each visitor at
    most. Nothing else fails, and the autoreloader and its child go together when it sleeps.
    """
    interpreter = python("python")
    await asyncio.to_thread(subprocess.run, [interpreter, "-m", "django", "startproject", "shop", tmp_path], check=True)
    urls = tmp_path / "shop" / "urls.py"
    urls.write_text(DJANGO.format(version=0))
    command = [str(interpreter), "manage.py", "runserver", "{port}"]
    await site.create("real/django", command, tmp_path, idle=IDLE)
    host = site.host("real", "django")
    assert (await site.fetch(host, "/shop/?a=%20b")).body == b"version 0 GET /shop/?a=%20b 0"
    first = await instance_of(site, "django")
    shoppers = Shoppers(site, host)
    edits, visitors = 3, 3
    async with asyncio.TaskGroup() as group:
        for _ in range(visitors):
            group.create_task(shoppers.visit())
        for version in range(1, edits + 1):
            urls.write_text(DJANGO.format(version=f"{version}" + "0" * version))  # another size: seen whatever mtime is
            await shoppers.until(f"{version}" + "0" * version, urls)
        shoppers.done.set()
    assert not shoppers.failures
    assert shoppers.broken <= edits * visitors
    assert await instance_of(site, "django") == first
    assert len([each for each in lair.instances() if each.environ()["LAIR_INSTANCE"] == first]) == 2
    await site.until("real", "django", "asleep")
    assert not [each for each in lair.instances() if each.environ().get("LAIR_INSTANCE") == first]
    assert (await site.fetch(host, "/shop/")).body == b"version 3000 GET /shop/ 0"


async def test_streamlit(site: Site, tmp_path: Path) -> None:
    """Woken by its bookmarked URL; its WebSocket keeps it awake for as long as the page is open, and no longer.

    With its protection against other origins and forged requests left on: it only has to know its own public host.
    """
    (tmp_path / "page.py").write_text(STREAMLIT)
    host, port = site.host("real", "streamlit"), site.address[1]
    command = [
        str(python("python")), "-m", "streamlit", "run", "page.py", "--server.port={port}",
        "--server.address=127.0.0.1", "--server.headless=true", "--browser.gatherUsageStats=false",
        "--server.fileWatcherType=none", f"--browser.serverAddress={host}",
    ]  # fmt: skip
    await site.create("real/streamlit", command, tmp_path, idle=IDLE, env=[f"HOME={tmp_path}"])
    page = await site.fetch(host, "/?who=x", headers={"Accept": "*/*"})
    assert page.status == 200
    assert b"<title>Streamlit</title>" in page.body
    first = await instance_of(site, "streamlit")

    async def look(*, stay: float = 0.0) -> None:
        """Do what its page does in a browser, and stay."""
        origin = Origin(f"http://{host}:{port}")
        async with asyncio.timeout(60), websockets.connect(
            f"ws://{host}:{port}/_stcore/stream", host=site.address[0], port=port, proxy=None,
            subprotocols=[Subprotocol("streamlit")], origin=origin, max_size=None,
        ) as socket:  # fmt: skip
            await socket.send(RERUN)
            seen = b""
            while b"seen by x" not in seen:
                message = await socket.recv()
                assert isinstance(message, bytes)
                seen += message
            await asyncio.sleep(stay)

    await look(stay=3.0)
    assert await instance_of(site, "streamlit") == first
    await site.until("real", "streamlit", "asleep")
    await look()  # the page that was left open in a tab connects again: that alone wakes it
    assert await instance_of(site, "streamlit") != first


async def test_jupyterlab(site: Site, lair: Lair, tmp_path: Path) -> None:
    """A web IDE: a deep link, its assets, a terminal that keeps it awake while it is open, and goes with it."""
    (tmp_path / "notes.txt").write_text("notes")
    command = [
        str(python("python")), "-m", "jupyterlab", "--ServerApp.port={port}", "--ServerApp.ip=127.0.0.1",
        "--ServerApp.port_retries=0", "--no-browser", "--allow-root", "--IdentityProvider.token=",
        "--ServerApp.password=", "--ServerApp.allow_remote_access=True", "--LabApp.news_url=",
        "--LabApp.extension_manager=readonly",
    ]  # fmt: skip
    env = [f"{name}={tmp_path / name}" for name in ("HOME", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR")]
    await site.create("real/lab", command, tmp_path, idle=IDLE, env=env)
    host, port = site.host("real", "lab"), site.address[1]
    page = await site.fetch(host, "/lab/tree/notes.txt?reset", headers={"Accept": "*/*"})
    assert page.status == 200
    assert b"JupyterLab" in page.body
    first = await instance_of(site, "lab")
    script = page.body.decode().partition('src="/static/lab/')[2].partition('"')[0]
    assert (await site.fetch(host, f"/static/lab/{script}")).headers["content-type"].partition("/")[2] == "javascript"
    assert (await site.fetch(host, "/api/contents/notes.txt?content=1")).json()["content"] == "notes"

    cookie = page.headers["set-cookie"].partition(";")[0]
    headers = {"Cookie": cookie, "X-XSRFToken": cookie.partition("=")[2]}
    terminal = await site.fetch(host, "/api/terminals", method="POST", body=b"{}", headers=headers)
    assert terminal.status == 200, terminal.body
    url = f"ws://{host}:{port}/terminals/websocket/{terminal.json()['name']}"
    origin = Origin(f"http://{host}:{port}")
    async with asyncio.timeout(60), websockets.connect(
        url, host=site.address[0], port=port, proxy=None, origin=origin
    ) as socket:  # fmt: skip
        await socket.send(json.dumps(["stdin", "echo $((6*7))-so; sleep 1000 &\r"]))
        said = ""
        while "42-so" not in said:
            kind, *rest = json.loads(await socket.recv())
            said += rest[0] if kind == "stdout" else ""
        await asyncio.sleep(3.0)  # three times the idle time, with nothing said
        assert await instance_of(site, "lab") == first
    await site.until("real", "lab", "asleep", within=30)
    assert not [each for each in lair.instances() if each.environ().get("LAIR_INSTANCE") == first]
    assert (await site.fetch(host, "/lab/tree/notes.txt", headers={"Accept": "*/*"})).status == 200
    assert await instance_of(site, "lab") != first
