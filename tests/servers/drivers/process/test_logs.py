"""Logs: rotated while they are written, followed over rotations, and a full disk stops nobody."""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.disks import fill, mounted

from sourcelair.servers.drivers.process import logs

pytestmark = pytest.mark.anyio


def write(log: Path, text: str) -> None:
    with log.open("a") as file:
        file.write(text)


def lines(first: int, last: int) -> str:
    return "".join(f"line {number}\n" for number in range(first, last))


def test_the_last_lines(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert logs.tail(log, 10) == b""
    write(log, lines(0, 100_000) + "unfinished")
    assert logs.tail(log, 3) == b"line 99998\nline 99999\nunfinished"
    assert logs.tail(log, 0) == b""
    assert len(logs.tail(log, 100_000)) <= logs.TAIL + logs.BLOCK, "memory is bounded however much is asked for"


def test_rotation_keeps_some(tmp_path: Path) -> None:
    log = tmp_path / "log"
    for number in range(6):
        write(log, f"{number} " * 1000)
        assert logs.rotate(log, 1000, keep=3)
        assert log.stat().st_size == 0
        assert not logs.rotate(log, 1000, keep=3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log", "log.1", "log.2", "log.3"]
    assert [logs.older(log, number).read_text()[0] for number in (1, 2, 3)] == ["5", "4", "3"]
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir() if path != log} == {0o600}
    logs.remove(log)
    assert list(tmp_path.iterdir()) == []


def test_the_last_lines_over_a_rotation(tmp_path: Path) -> None:
    log = tmp_path / "log"
    write(log, lines(0, 10))
    logs.rotate(log, 1)
    write(log, lines(10, 12))
    assert logs.tail(log, 4).decode() == lines(8, 12)


async def test_an_instance_that_locks_its_own_output_blocks_nobody(tmp_path: Path) -> None:
    """An instance has its log open, and may do with it what it likes."""
    log = tmp_path / "log"
    write(log, lines(0, 10))
    reading = logs.read_log(log, lines=1, follow=True)
    with log.open("a") as output:
        fcntl.flock(output, fcntl.LOCK_EX)
        async with asyncio.timeout(5):
            assert await anext(reading) == b"line 9\n"
            assert await asyncio.to_thread(logs.rotate, log, 10)
            write(log, lines(10, 11))
            assert await anext(reading) == b"line 10\n"
    await reading.aclose()
    logs.remove(log)
    assert list(tmp_path.iterdir()) == []


async def test_a_log_that_is_removed_is_read_to_its_end(tmp_path: Path) -> None:
    """What a server says last, when it is removed, reaches whoever follows; then it ends."""
    log, over = tmp_path / "log", asyncio.Event()
    write(log, lines(0, 10))
    logs.rotate(log, 1)
    write(log, lines(10, 11))
    found, reading = b"", logs.read_log(log, lines=1, follow=True, until=over)
    async with asyncio.timeout(10):
        assert await anext(reading) == b"line 10\n"
        write(log, lines(11, 12))
        logs.remove(log)
        over.set()
        async for part in reading:
            found += part
    assert found == b"line 11\n"


@pytest.mark.parametrize("rotated", [False, True])
async def test_what_lies_before_the_beginning_is_left_out(tmp_path: Path, rotated: bool) -> None:
    """However many lines are asked for, and whatever was rotated: another instance's are not among them."""
    log = tmp_path / "log"
    write(log, lines(0, 5))
    begin = log.stat().st_size
    if rotated:
        logs.rotate(log, 1)
    write(log, lines(5, 6))
    reading = logs.read_log(log, lines=100, follow=True, begin=begin)
    assert await anext(reading) == lines(5, 6).encode()
    write(log, lines(6, 7))
    assert await anext(reading) == lines(6, 7).encode()
    await reading.aclose()


async def test_following_over_rotations_loses_nothing(tmp_path: Path) -> None:
    log = tmp_path / "log"
    write(log, lines(0, 5))
    found = b""
    written = 5
    async with asyncio.timeout(20):
        async for part in logs.read_log(log, lines=3, follow=True):
            found += part
            if written < 2000:
                write(log, lines(written, written + 50))
                written += 50
                if written % 500 == 0:
                    await asyncio.to_thread(logs.rotate, log, 100)
            elif found.endswith(b"line 1999\n") or b"line 2004\n" in found:
                break
    assert found.decode() == lines(2, written)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of two megabytes."""
    place = tmp_path / "disk"
    place.mkdir()
    with mounted(place, "2m"):
        yield place


def test_on_a_full_disk_a_running_instance_writes_on(disk: Path) -> None:
    """What was reserved for it; what it wrote before is dropped, and no write ever fails."""
    log = disk / "log"
    file, problem = logs.open_log(log)
    assert problem is None
    fill(disk)
    for _ in range(20):
        for _ in range(100):
            assert os.write(file, b"x" * 1000) == 1000
        logs.rotate(log, 10 << 20)
    os.close(file)


def test_on_a_full_disk_an_instance_starts_and_logs_nothing(disk: Path) -> None:
    fill(disk)
    file, problem = logs.open_log(disk / "log")
    assert problem is not None and "No space" in problem
    assert os.write(file, b"x" * 100_000) == 100_000
    os.close(file)


def test_older_logs_make_room(disk: Path) -> None:
    """The oldest go first; what was written last stays as long as there is any place for it."""
    log = disk / "log"
    file, _ = logs.open_log(log)
    for number in range(3):
        os.write(file, str(number).encode() * 300_000)
        assert logs.rotate(log, 100_000)
    fill(disk)
    os.write(file, b"3" * 200_000)
    assert logs.rotate(log, 100_000)
    assert logs.older(log, 1).read_bytes() == b"3" * 200_000
    os.close(file)


def test_a_log_that_is_gone_is_no_error(tmp_path: Path) -> None:
    assert not logs.rotate(tmp_path / "nothing", 1)
    logs.remove(tmp_path / "nothing")
    logs.release(tmp_path / "nothing")
