"""Logs that somebody appends to are moved aside, and nothing of them is lost."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from sourcelair.rotation import keep_short, move_aside, older


def test_the_content_moves_and_the_writer_goes_on(tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    with log.open("ab", buffering=0) as writer:
        for number in range(1, 7):
            writer.write(b"%d\n" % number)
            move_aside(log)
        writer.write(b"7\n")
    assert log.read_text() == "7\n"
    assert [older(log, number).read_text() for number in (1, 2, 3)] == ["6\n", "5\n", "4\n"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [log.name, *(f"{log.name}.{n}" for n in (1, 2, 3))]
    assert older(log, 1).stat().st_mode & 0o777 == 0o600


@pytest.mark.anyio
async def test_only_what_is_long_is_rotated(tmp_path: Path) -> None:
    """One that is missing, or can't be rotated, keeps no other from it."""
    missing, broken, short, long = (tmp_path / name for name in ("missing", "broken", "short", "long"))
    broken.mkdir()
    for number in range(100):
        (broken / f"{number:0100}").touch()
    short.write_bytes(b"x" * 10)
    long.write_bytes(b"x" * 11)
    task = asyncio.create_task(keep_short([missing, broken, short, long], 10, look=0.01))
    async with asyncio.timeout(10):
        while long.stat().st_size:
            await asyncio.sleep(0.001)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert older(long, 1).read_bytes() == b"x" * 11
    assert short.stat().st_size == 10
