"""The disk for logs is full: servers answer, sleep and wake as ever, and log again when there is room."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.disks import fill, mounted
from tests.system.lair import Lair

pytestmark = pytest.mark.system


@contextlib.contextmanager
def small_disk(directory: Path, part: str, size: str) -> Iterator[tuple[Lair, Path]]:
    """An installation of which one folder lies on a small disk of its own, and that folder."""
    disk = directory / "own" / "data" / part
    disk.mkdir(parents=True)
    disk.parent.chmod(0o700)
    with mounted(disk, size):
        lair = Lair(directory / "own")
        try:
            lair.start()
            yield lair, disk
        finally:
            lair.close()


def until(condition: Callable[[], bool], timeout: float = 30.0) -> None:
    """Wait until something holds that only shows from outside."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def full(tmp_path: Path) -> Iterator[tuple[Lair, Path]]:
    """An installation whose logs lie on a disk of three megabytes, and that disk."""
    with small_disk(tmp_path, "logs", "3m") as found:
        yield found


def test_a_full_disk_for_logs(full: tuple[Lair, Path], tmp_path: Path) -> None:
    """`python -m http.server` fails a request that it can't log: it must never have to."""
    lair, logs = full
    (tmp_path / "index.html").write_text("my blog")
    for name in ("demo/before", "demo/after"):
        lair.cli("create", name, "--dir", str(tmp_path), "--", sys.executable, "-m", "http.server", "{port}")
    assert lair.get("demo/before").text == "my blog"

    ballast = fill(logs)
    for number in range(1000):
        assert lair.get("demo/before", f"/?{number}").text == "my blog"
    assert lair.get("demo/after").text == "my blog", "one that starts on a full disk logs nothing, and runs"
    lair.cli("stop", "demo/before")
    assert lair.get("demo/before").text == "my blog"
    assert lair.cli("ls").returncode == 0

    ballast.unlink()
    lair.cli("restart", "demo/before")
    assert lair.get("demo/before", "/?seen-again").text == "my blog"
    assert "seen-again" in lair.cli("logs", "demo/before").stdout


def test_nginx_dies_on_a_full_disk(tmp_path: Path) -> None:
    """It is started again as soon as there is room, by the same control plane; visitors wait until then."""
    (tmp_path / "index.html").write_text("my blog")
    with small_disk(tmp_path, "nginx", "2m") as (lair, disk):
        lair.cli("create", "demo/blog", "--dir", str(tmp_path), "--", sys.executable, "-m", "http.server", "{port}")
        assert lair.get("demo/blog").text == "my blog"
        ballast = fill(disk)
        assert lair.get("demo/blog").text == "my blog"
        for process in lair.nginx():
            process.kill()
        until(lambda: "nginx_not_started" in lair.output or lair.output.count("nginx_started") == 2)
        assert lair.up is not None and lair.up.poll() is None, "the control plane goes on"
        ballast.unlink()
        until(lambda: lair.output.count("nginx_started") == 2)
        until(lair.is_ready)
        assert lair.get("demo/blog").text == "my blog"


def test_a_full_disk_for_the_last_known_routes(tmp_path: Path) -> None:
    """Visitors are served and servers wake as ever; stops end once the file holds again what NGINX was told."""
    (tmp_path / "index.html").write_text("my blog")
    with small_disk(tmp_path, "agent", "256k") as (lair, disk):
        for name in ("demo/before", "demo/after"):
            lair.cli("create", name, "--dir", str(tmp_path), "--", sys.executable, "-m", "http.server", "{port}")
        assert lair.get("demo/before").text == "my blog"
        ballast = fill(disk)
        for number in range(200):  # what is left of the file's last page is soon used up
            route = {"source": f"r{number}.example.com", "target": "http://10.0.0.1:1"}
            assert lair.call("POST", "/api/routes/", route).status == 201
        until(lambda: "journal_failed" in lair.output)
        assert lair.get("demo/before").text == "my blog"
        assert lair.get("demo/after").text == "my blog", "a sleeping one wakes"
        stopped = lair.call("POST", "/api/servers/demo/before/stop?wait=2").json()
        assert stopped["state"] == "draining", "nothing is promised while the file is behind"
        ballast.unlink()
        lair.wait_for("demo/before", "asleep", timeout=60)
        lair.terminate()
        for process in lair.nginx():
            process.kill()
        lair.start()
        assert lair.get("demo/before").text == "my blog"
        assert lair.get("demo/after").text == "my blog"
