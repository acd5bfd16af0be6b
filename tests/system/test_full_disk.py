"""The disk for logs is full: servers answer, sleep and wake as ever, and log again when there is room."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.system.lair import Lair

pytestmark = pytest.mark.system


@pytest.fixture
def full(tmp_path: Path) -> Iterator[tuple[Lair, Path]]:
    """An installation whose logs lie on a disk of three megabytes, and that disk."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    lair = Lair(tmp_path / "own")
    logs = lair.data_dir / "logs"
    logs.mkdir(parents=True)
    lair.data_dir.chmod(0o700)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "none", logs], capture_output=True, check=False)
    if mounted.returncode:
        lair.close()
        pytest.skip("this machine does not let root mount")
    try:
        lair.start()
        yield lair, logs
    finally:
        lair.close()
        subprocess.run(["umount", "-l", logs], check=True)


def test_a_full_disk_for_logs(full: tuple[Lair, Path], tmp_path: Path) -> None:
    """`python -m http.server` fails a request that it can't log: it must never have to."""
    lair, logs = full
    (tmp_path / "index.html").write_text("my blog")
    for name in ("demo/before", "demo/after"):
        lair.cli("create", name, "--dir", str(tmp_path), "--", sys.executable, "-m", "http.server", "{port}")
    assert lair.get("demo/before").text == "my blog"

    ballast = logs / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(b"x" * 4096):
            pass
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
