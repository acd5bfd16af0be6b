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
from tests.etcd import running_etcd
from tests.redis import running_redis
from tests.servers.drivers.subjects import free_port
from tests.system.lair import SOURCE, Lair, running_lair

pytestmark = pytest.mark.system

DOCS = SOURCE.parent / "docs"


def blocks(page: str, language: str) -> list[str]:
    """Return the code blocks of a page."""
    return re.findall(rf"^```{language}\n(.*?)^```", (DOCS / page).read_text(), re.MULTILINE | re.DOTALL)


def blocks_below(page: str, heading: str, language: str) -> list[str]:
    """Return the code blocks of one section."""
    _, _, rest = (DOCS / page).read_text().partition(f"## … {heading}\n")
    return re.findall(rf"^```{language}\n(.*?)^```", rest.partition("\n## ")[0], re.MULTILINE | re.DOTALL)


def said_of(text: str, places: dict[str, str]) -> str:
    """Return commands with the places of this test in them."""
    for name in places:
        text = text.replace(name, f"<{name}>")
    for name, place in places.items():
        text = text.replace(f"<{name}>", place)
    return text.replace("bin/up", "bin/lair up").replace("bin/lair", f"{sys.executable} -m sourcelair.cli")


def run(lair: Lair, text: str, directory: Path) -> str:
    """Run commands as a person does, and return what they print."""
    text = said_of(text, {})
    done = subprocess.run(
        ["sh", "-euc", text], env=lair.env, cwd=directory, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, f"{text}\n{done.stdout}{done.stderr}"
    return done.stdout


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


def test_moving_to_etcd_and_back(tmp_path: Path) -> None:
    """The how-to, as written: there with its three commands, and back with the places exchanged."""
    (tmp_path / "etcd").mkdir()
    copy, stop, start = blocks_below("how-to.md", "move to etcd, and back", "sh")
    with running_etcd(tmp_path / "etcd") as etcd, running_lair(tmp_path / "lair") as lair:
        lair.cli("create", "demo/hello", "--dir", str(tmp_path), "--", "python3", "-m", "http.server", "{port}")
        assert lair.get("demo/hello").status == 200
        instance = lair.server("demo/hello")["instance"]["id"]
        there = {"etcd://10.0.0.1:2379/lair": etcd.url("/lair"), "DATA_DIR": str(lair.data_dir)}
        back = {"etcd://10.0.0.1:2379/lair": str(lair.data_dir), "DATA_DIR": etcd.url("/lair")}
        for places in (there, back):
            with subprocess.Popen(
                ["sh", "-euc", said_of(copy, places)], env=lair.env, cwd=tmp_path, stdout=subprocess.PIPE, text=True
            ) as following:
                assert following.stdout is not None
                assert "Following the system" in following.stdout.readline()
                run(lair, said_of(stop, there), tmp_path)
                assert "Nothing differs" in following.stdout.read()
            assert following.returncode == 0
            run(lair, said_of(start, places) if places is there else "bin/up --detach", tmp_path)
            assert lair.server("demo/hello")["instance"]["id"] == instance
            assert lair.get("demo/hello").status == 200
        lair.cli("down")


def test_coming_from_the_original_ceryx(lair: Lair, tmp_path: Path) -> None:
    """The how-to, as written: what a dry run says is done by the second command."""
    (text,) = blocks_below("how-to.md", "come from the original Ceryx", "sh")
    with running_redis(tmp_path) as redis:
        redis.client.set("ceryx:routes:redis.example.com", "10.0.0.3:3000")
        said = run(lair, text.replace("redis://10.0.0.2:6379", redis.url), tmp_path)
    assert said.splitlines()[-3:] == [
        "Nothing was done; it would be: 1 created.",
        "created  redis.example.com",
        "1 created.",
    ]
    assert lair.call("GET", "/api/routes/redis.example.com").json()["target"] == "http://10.0.0.3:3000"
    lair.cli("routes", "rm", "redis.example.com")
