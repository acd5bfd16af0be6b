"""What is on disk after the worst: a killed process, a full disk, a starved thread."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sourcelair.errors import OutOfSpace
from sourcelair.store.base import Put
from sourcelair.store.sqlite import open_sqlite

pytestmark = pytest.mark.anyio

SAME_CODE = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}

WRITER = """
import asyncio, os, sys
from pathlib import Path
from sourcelair.store.sqlite import open_sqlite
from sourcelair.store.base import Put

async def write(store, name):
    number = 0
    while True:
        value = b"%d" % number
        revision = await store.transact([], [Put(f"/{name}/a", value), Put(f"/{name}/b", value)])
        os.write(1, f"{name} {number} {revision}\\n".encode())
        number += 1

async def main():
    store = await open_sqlite(Path(sys.argv[1]))
    os.write(1, b"open\\n")
    await asyncio.gather(*(write(store, name) for name in range(8)))

asyncio.run(main())
"""


async def test_what_was_acknowledged_survives_kill(tmp_path: Path) -> None:
    """Ten times a writer is killed somewhere: all that it was told is there, transactions are whole, none is torn."""
    path = tmp_path / "store.db"
    chance = random.Random(20261123)
    for _ in range(10):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", WRITER, str(path), stdout=asyncio.subprocess.PIPE, env=SAME_CODE
        )
        assert process.stdout is not None
        assert await process.stdout.readline() == b"open\n"
        lines = [await process.stdout.readline() for _ in range(chance.randrange(1, 300))]
        process.kill()
        lines += (await process.stdout.read()).splitlines(keepends=True)
        await process.wait()
        acknowledged = {}
        for line in lines:
            if line.endswith(b"\n"):
                name, number, revision = map(int, line.split())
                acknowledged[name] = (number, revision)
        store = await open_sqlite(path)
        current = await store.revision()
        for name, (number, revision) in acknowledged.items():
            one, two = await store.get(f"/{name}/a"), await store.get(f"/{name}/b")
            assert one is not None and two is not None
            assert one.value == two.value and one.mod_revision == two.mod_revision
            assert int(one.value) in {number, number + 1}, "acknowledged, or the next that was on its way"
            assert one.mod_revision >= revision and current >= revision
        await store.close()


async def fill(path: Path, store_limit: int) -> None:
    """A store that has no space left refuses, keeps what it has, and goes on when there is space again."""
    store = await open_sqlite(path, max_bytes=store_limit)
    written = 0
    with pytest.raises(OutOfSpace, match=str(path)):
        while written < 10_000:
            await store.put("/big", b"x" * 10_000 + b"%d" % written)
            written += 1
    assert written > 3
    revision = await store.revision()
    results = await asyncio.gather(
        *(store.transact([], [Put(f"/{n}", b"small"), Put(f"/{n}/big", b"x" * 100_000)]) for n in range(5)),
        return_exceptions=True,
    )
    assert all(isinstance(result, OutOfSpace) for result in results)
    entry = await store.get("/big")
    assert entry is not None and entry.value.endswith(b"x%d" % (written - 1))
    assert await store.revision() == revision
    assert [entry.key for entry in (await store.list("")).entries] == ["/big"], "nothing half written"
    await store.compact(revision)  # frees space: what history alone needs goes
    assert await store.put("/after", b"works") == revision + 1
    async with asyncio.timeout(5):
        async for change in store.watch("", revision + 1):
            assert [event.key for event in change.events] == ["/after"]
            break
    await store.close()


async def test_a_full_store_refuses_and_goes_on(tmp_path: Path) -> None:
    """SQLite itself says that it is full."""
    await fill(tmp_path / "store.db", 500_000)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
async def test_a_full_disk_refuses_and_goes_on(tmp_path: Path) -> None:
    """The disk says that it is full; once somebody frees space, it works again without being opened anew."""
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "none", tmp_path], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("this machine does not let root mount")
    try:
        ballast = tmp_path / "ballast"
        ballast.write_bytes(b"x" * 1_000_000)
        store = await open_sqlite(tmp_path / "store.db")
        written = 0
        with pytest.raises(OutOfSpace):
            while written < 1000:
                await store.put(f"/{written}", b"x" * 10_000)
                written += 1
        assert len((await store.list("")).entries) == written
        ballast.unlink()
        await store.put("/after", b"works")
        await store.close()
        store = await open_sqlite(tmp_path / "store.db")
        assert len((await store.list("")).entries) == written + 1
        await store.close()
    finally:
        subprocess.run(["umount", tmp_path], check=True)


LIMITED = """
import asyncio, resource, sys
from pathlib import Path
from sourcelair.errors import OutOfSpace
from sourcelair.store.sqlite import open_sqlite

async def main():
    store = await open_sqlite(Path(sys.argv[1]))
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, hard))
    written = 0
    try:
        while written < 1000:
            await store.put(f"/{written}", b"x" * 10_000)
            written += 1
    except OutOfSpace:
        pass
    assert 3 < written < 1000, written
    assert len((await store.list("")).entries) == written
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    await store.put("/after", b"works")
    await store.close()
    store = await open_sqlite(Path(sys.argv[1]))
    assert len((await store.list("")).entries) == written + 1
    await store.close()

asyncio.run(main())
"""


async def test_a_disk_that_fails_to_write_is_out_of_space(tmp_path: Path) -> None:
    """An I/O error (a file size limit, so no root is needed) refuses the write; later ones work again."""
    process = subprocess.run(
        [sys.executable, "-c", LIMITED, tmp_path / "store.db"],
        capture_output=True,
        text=True,
        check=False,
        env=SAME_CODE,
    )
    assert process.returncode == 0, process.stderr


async def test_one_that_is_too_much_does_not_take_the_others_with_it(tmp_path: Path) -> None:
    """In one commit with a write that does not fit, those that fit are done."""
    store = await open_sqlite(tmp_path / "store.db", max_bytes=400_000)
    results = await asyncio.gather(
        store.put("/1", b"small"),
        store.put("/big", b"x" * 800_000),
        store.put("/2", b"small"),
        return_exceptions=True,
    )
    assert [type(result) for result in results] == [int, OutOfSpace, int]
    assert [entry.key for entry in (await store.list("")).entries] == ["/1", "/2"]
    await store.close()


async def test_a_busy_event_loop_does_not_starve_writes(tmp_path: Path) -> None:
    """With a loop that never rests, writes still take milliseconds: it steps aside for the store's threads."""
    store = await open_sqlite(tmp_path / "store.db")
    busy = True

    async def spin() -> None:
        while busy:
            until = time.perf_counter() + 0.0005
            while time.perf_counter() < until:
                pass
            await asyncio.sleep(0)

    spinning = asyncio.create_task(spin())
    slowest = 0.0
    for number in range(100):
        began = time.perf_counter()
        await store.put("/k", b"%d" % number)
        await store.get("/k")
        slowest = max(slowest, time.perf_counter() - began)
    busy = False
    await spinning
    await store.close()
    assert slowest < 0.5, f"{slowest} s: it was 4 s and more without stepping aside"
