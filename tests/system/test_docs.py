"""The documentation as written: the tutorial's commands, and the waker of the reference."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.servers.drivers.subjects import free_port
from tests.system.lair import SOURCE, Lair

pytestmark = pytest.mark.system

DOCS = SOURCE.parent / "docs"


def blocks(page: str, language: str) -> list[str]:
    """Return the code blocks of a page."""
    return re.findall(rf"^```{language}\n(.*?)^```", (DOCS / page).read_text(), re.MULTILINE | re.DOTALL)


def test_the_tutorial(lair: Lair, tmp_path: Path) -> None:
    """Every command of it, in order; what it says of them is what they print."""
    if shutil.which("curl") is None:
        pytest.skip("the tutorial uses curl")
    hello = SOURCE.parent / "examples" / "hello"
    lair.cli("create", "demo/hello", "--dir", str(hello), "--", "python3", "-m", "http.server", "{port}")
    said = []
    for block in blocks("tutorial.md", "sh"):
        if block == "bin/up\n":
            continue
        text = block.replace("bin/lair", f"{sys.executable} -m sourcelair.cli")
        text = text.replace(":8080", f":{lair.port}").replace("/tmp/blog", str(tmp_path / "blog"))
        done = subprocess.run(
            ["sh", "-euc", text], env=lair.env, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, f"{text}\n{done.stdout}{done.stderr}"
        said.append(done.stdout)
    everything = "\n".join(said)
    assert f"http://blog--demo.localhost:{lair.port}\n" in everything
    assert "<h1>My blog</h1>" in everything
    assert re.search(r"demo/blog +asleep", everything), "it slept after ten seconds"
    assert "501" in everything and "no database" in everything
    assert lair.cli_json("ls")[0]["project"] == "hello"
    lair.cli("rm", "demo/hello", "--yes")


def test_a_waker_in_an_afternoon(lair: Lair, tmp_path: Path) -> None:
    """The waker of the reference wakes a server that SourceLair knows nothing of."""
    (program,) = blocks("reference/waker.md", "python")
    waker, server = free_port(), free_port()
    program = program.replace("7070", str(lair.api_port)).replace("9000", str(waker)).replace("9100", str(server))
    (tmp_path / "waker.py").write_text(program)
    (tmp_path / "admin.token").write_text(lair.token)
    (tmp_path / "index.html").write_text("woken by somebody else")
    process = subprocess.Popen([sys.executable, "waker.py"], cwd=tmp_path, stderr=subprocess.DEVNULL, process_group=0)
    try:
        lair.cli("routes", "set", "app.example.com", "--waker", f"http://127.0.0.1:{waker}")
        answer = lair.get("app.example.com")
        assert answer.text == "woken by somebody else"
        assert lair.call("GET", "/api/routes/app.example.com/").json()["target"] == f"http://127.0.0.1:{server}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
