"""The Vite development server: its Host check, `[::1]`, hot reload over its WebSocket, sleep and wake."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

import pytest
import websockets
from tests.system.environments import NODE, node_modules
from tests.system.site import Site
from websockets.typing import Origin, Subprotocol

from sourcelair.client.servers import ServerInput, Spec

pytestmark = [pytest.mark.anyio, pytest.mark.system, pytest.mark.timeout(180)]

PAGE = '<!doctype html><body><h1>vite</h1><script type="module" src="/main.js"></script></body>'


@pytest.fixture(scope="module")
def vite() -> Path:
    """Return the installed program."""
    return node_modules("vite") / "vite" / "bin" / "vite.js"


async def test_vite(site: Site, vite: Path, tmp_path: Path) -> None:
    """Its page, its modules and its hot reload work behind a `*.localhost` name, cold, warm and woken again."""
    (tmp_path / "index.html").write_text(PAGE)
    (tmp_path / "main.js").write_text("export const n = 1; if (import.meta.hot) import.meta.hot.accept();")
    command = [str(NODE), str(vite), "--port", "{port}", "--strictPort", "--host", "::1"]
    await site.create("real/vite", command, tmp_path, idle="1s")
    host, port = site.host("real", "vite"), site.address[1]
    answer = await site.fetch(host, headers={"Accept": "*/*"})
    assert answer.status == 200, answer.body
    assert b"/@vite/client" in answer.body
    server = await site.until("real", "vite", "awake")  # stored just after its route is published
    assert server.instance is not None
    assert server.instance.host in {"::1", "[::1]"}
    client = (await site.fetch(host, "/@vite/client")).body.decode()
    token = re.search(r'wsToken = "([^"]+)"', client)
    assert token is not None
    assert (await site.fetch(host, "/main.js")).status == 200
    url = f"ws://{host}:{port}/?token={token.group(1)}"
    # The token is Vite's proof that the page came from itself; a browser sends the page's origin too.
    hot = websockets.connect(
        url,
        host=site.address[0],
        port=port,
        subprotocols=[Subprotocol("vite-hmr")],
        origin=Origin(f"http://{host}:{port}"),
        proxy=None,
    )
    async with asyncio.timeout(30), hot as socket:
        assert json.loads(await socket.recv())["type"] == "connected"
        (tmp_path / "main.js").write_text("export const n = 2; if (import.meta.hot) import.meta.hot.accept();")
        while (update := json.loads(await socket.recv()))["type"] != "update":
            continue
        assert update["updates"][0]["path"] == "/main.js"
    await site.until("real", "vite", "asleep")
    assert b"n = 2" in (await site.fetch(host, "/main.js")).body
    again = await site.servers.get("real", "vite")
    assert again.instance is not None
    assert again.instance.id != server.instance.id


async def test_vite_refuses_hosts_that_it_does_not_know(site: Site, vite: Path, tmp_path: Path) -> None:
    """On another domain a user sees Vite's own 403, with its own words on what to set; with that set it works.

    We pass `Host` through as it came, so the app's word stands: `server.allowedHosts` is where it is changed.
    """
    (tmp_path / "index.html").write_text(PAGE)
    (tmp_path / "allowing").mkdir()
    (tmp_path / "allowing" / "index.html").write_text(PAGE)
    (tmp_path / "allowing" / "vite.config.js").write_text(
        "export default { server: { allowedHosts: ['.example.com'] } }"
    )
    command = [str(NODE), str(vite), "--port", "{port}", "--strictPort"]
    for project, directory in (("strict", tmp_path), ("allowing", tmp_path / "allowing")):
        spec = Spec(command=command, directory=str(directory))
        host = f"{project}.example.com"
        await site.servers.put("vites", project, ServerInput(spec=spec, hosts=[host]))
        answer = await site.fetch(host, headers={"Accept": "*/*"})
        if project == "strict":
            assert answer.status == 403
            assert b"allowedHosts" in answer.body
        else:
            assert answer.status == 200
