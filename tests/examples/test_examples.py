"""The sample projects, as their visitors meet them, without any proxy."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from websockets.sync.client import connect

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def clock() -> Iterator[int]:
    """The clock's port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen([sys.executable, "app.py", str(port)], cwd=EXAMPLES / "clock")
    try:
        deadline = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                assert time.monotonic() < deadline and process.poll() is None
                time.sleep(0.02)
        yield port
    finally:
        process.kill()
        process.wait()


def test_the_clock_has_a_page(clock: int) -> None:
    answer = httpx.get(f"http://127.0.0.1:{clock}/", trust_env=False)
    assert answer.status_code == 200
    assert "WebSocket" in answer.text
    assert httpx.get(f"http://127.0.0.1:{clock}/nothing", trust_env=False).status_code == 404


def test_the_clock_ticks(clock: int) -> None:
    with connect(f"ws://127.0.0.1:{clock}/time", proxy=None) as websocket:
        assert re.fullmatch(r"\d\d:\d\d:\d\d", str(websocket.recv(timeout=5)))
        assert re.fullmatch(r"\d\d:\d\d:\d\d", str(websocket.recv(timeout=5)))
        assert websocket.ping().wait(5)


def test_the_clock_survives_nonsense(clock: int) -> None:
    with socket.create_connection(("127.0.0.1", clock)) as connection:
        connection.sendall(b"\r\n\r\n")
        connection.recv(100)
    assert httpx.get(f"http://127.0.0.1:{clock}/", trust_env=False).status_code == 200


def test_hello_is_a_static_site() -> None:
    page = (EXAMPLES / "hello" / "index.html").read_text()
    for name in re.findall(r'href="([^":]+)"', page):
        assert (EXAMPLES / "hello" / name).is_file()
