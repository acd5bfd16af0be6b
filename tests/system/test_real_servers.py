"""Real servers that no one here wrote: created by the command line, visited cold and warm, asleep when idle, woken."""

from __future__ import annotations

import asyncio
import json
import sys
import uuid
from pathlib import Path

import pytest
import websockets
from tests.system.site import Site

pytestmark = [pytest.mark.anyio, pytest.mark.system]

IDLE = "1s"
"""Time without activity before these servers sleep."""


async def test_python_http_server(site: Site, tmp_path: Path) -> None:
    """A thousand visitors at once, on a listen backlog of five: one start, no error; then it sleeps, and wakes."""
    (tmp_path / "index.html").write_text("<h1>hello</h1>")
    await site.create("real/plain", ["python3", "-m", "http.server", "{port}"], tmp_path, idle=IDLE)
    host = site.host("real", "plain")
    assert (await site.servers.get("real", "plain")).state == "asleep"
    answers = await asyncio.gather(*(site.fetch(host) for _ in range(1000)))
    assert {answer.status for answer in answers} == {200}
    assert {answer.body for answer in answers} == {b"<h1>hello</h1>"}
    first = (await site.servers.get("real", "plain")).instance
    assert (await site.fetch(host)).status == 200
    assert first is not None
    await site.until("real", "plain", "asleep")
    assert (await site.fetch(host)).body == b"<h1>hello</h1>"
    second = (await site.servers.get("real", "plain")).instance
    assert second is not None
    assert second.id != first.id


async def run_in_kernel(site: Site, host: str, code: str) -> str:
    """Start a Jupyter kernel, execute code over its WebSocket, and return the result as text."""
    answer = await site.fetch(host, "/api/kernels", method="POST", body=b"{}")
    assert answer.status == 201, answer.body
    kernel = answer.json()["id"]
    address, port = site.address
    url = f"ws://{host}:{port}/api/kernels/{kernel}/channels"
    header = {
        "msg_id": uuid.uuid4().hex,
        "msg_type": "execute_request",
        "username": "",
        "session": "s",
        "version": "5.3",
    }
    content = {"code": code, "silent": False, "store_history": False, "user_expressions": {}, "allow_stdin": False}
    message = {"header": header, "parent_header": {}, "metadata": {}, "channel": "shell", "content": content}
    async with asyncio.timeout(60), websockets.connect(url, host=address, port=port, proxy=None) as socket:
        await socket.send(json.dumps(message))
        while True:
            reply = json.loads(await socket.recv())
            if reply["header"]["msg_type"] == "execute_result":
                return str(reply["content"]["data"]["text/plain"])


async def test_jupyter(site: Site, tmp_path: Path) -> None:
    """A kernel computes 1+1 over its WebSocket; an open WebSocket keeps the server awake; then it sleeps, and wakes."""
    command = [
        sys.executable, "-m", "jupyter_server", "--ServerApp.port={port}", "--ServerApp.ip=127.0.0.1",
        "--ServerApp.port_retries=0", "--no-browser", "--allow-root", "--IdentityProvider.token=",
        "--ServerApp.password=", "--ServerApp.disable_check_xsrf=True", "--ServerApp.allow_remote_access=True",
    ]  # fmt: skip
    env = [f"JUPYTER_RUNTIME_DIR={tmp_path / 'run'}", f"JUPYTER_CONFIG_DIR={tmp_path / 'config'}"]
    await site.create("real/jupyter", command, tmp_path, idle=IDLE, env=env)
    host = site.host("real", "jupyter")
    answer = await site.fetch(host, "/api")
    assert answer.status == 200
    assert "version" in answer.json()
    assert await run_in_kernel(site, host, "1+1") == "2"
    first = (await site.servers.get("real", "jupyter")).instance
    await site.until("real", "jupyter", "asleep", within=30)
    assert (await site.fetch(host, "/api")).status == 200
    second = (await site.servers.get("real", "jupyter")).instance
    assert first is not None
    assert second is not None
    assert second.id != first.id


async def test_an_open_websocket_keeps_a_server_awake(site: Site, tmp_path: Path) -> None:
    """For longer than the idle time, with nothing said on it; when it closes, the server sleeps."""
    app = await site.identity("real", "websocket", tmp_path, idle_timeout=1.0)
    address, port = site.address
    async with websockets.connect(f"ws://{app.host}:{port}/ws", host=address, port=port, proxy=None) as socket:
        await socket.send("hello")
        assert await socket.recv() == f"{app.name}: hello"
        await asyncio.sleep(3.5)
        await socket.send("still there")
        assert await socket.recv() == f"{app.name}: still there"
    assert len(app.starts()) == 1
    await app.until("asleep")
    async with websockets.connect(f"ws://{app.host}:{port}/ws", host=address, port=port, proxy=None) as socket:
        await socket.send("woken by a handshake")
        assert await socket.recv() == f"{app.name}: woken by a handshake"
    assert len(app.starts()) == 2
