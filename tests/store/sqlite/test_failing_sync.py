"""A disk whose syncs fail: what a writer was told is true after the process was killed, whatever it was told."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sourcelair.store.sqlite import open_sqlite

compiler = shutil.which("cc")
pytestmark = [pytest.mark.anyio, pytest.mark.skipif(compiler is None, reason="failing syncs are made in C")]

LIBRARY = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
/* While LAIR_FAIL names a file with a number in it, so many syncs of a -wal file fail. */
static int fails(int fd) {
    char link[64], path[4096], text[16];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 4) return 0;
    path[length] = 0;
    if (strcmp(path + length - 4, "-wal")) return 0;
    FILE *file = fopen(getenv("LAIR_FAIL"), "r+");
    if (!file) return 0;
    int left = fgets(text, sizeof text, file) ? atoi(text) : 0;
    if (left > 0) { rewind(file); fprintf(file, "%-8d", left - 1); }
    fclose(file);
    return left > 0;
}
int fsync(int fd) {
    if (fails(fd)) { errno = EIO; return -1; }
    return ((int (*)(int)) dlsym(RTLD_NEXT, "fsync"))(fd);
}
int fdatasync(int fd) {
    if (fails(fd)) { errno = EIO; return -1; }
    return ((int (*)(int)) dlsym(RTLD_NEXT, "fdatasync"))(fd);
}
"""

PROGRAM = """
import asyncio, os, sys
from pathlib import Path
from sourcelair.errors import LairError
from sourcelair.store.sqlite import open_sqlite

async def put(store, value):
    try:
        await store.put("/a", value)
        return "stored"
    except LairError as error:
        return f"{error.status} {error.detail}"

async def main():
    store = await open_sqlite(Path(sys.argv[1]))
    await store.put("/a", b"one")
    fail = Path(os.environ["LAIR_FAIL"])
    fail.write_text(sys.argv[2])
    print(await put(store, b"two"))
    if len(sys.argv) > 3:
        print(await put(store, b"three"))
        fail.unlink()
        print(await put(store, b"four"))
    print((await store.get("/a")).value.decode(), flush=True)
    os.kill(os.getpid(), 9)

asyncio.run(main())
"""


@pytest.fixture
def library(tmp_path: Path) -> Path:
    source, library = tmp_path / "fail.c", tmp_path / "fail.so"
    source.write_text(LIBRARY)
    subprocess.run([str(compiler), "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return library


def run(library: Path, *arguments: str) -> list[str]:
    """Run the program until it kills itself; return what it said."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(sys.path),
        "LD_PRELOAD": str(library),
        "LAIR_FAIL": str(library.parent / "fail"),
    }
    store = str(library.parent / "store.db")
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM, store, *arguments],
        env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert found.returncode == -9, found.stderr
    return found.stdout.splitlines()


async def value(library: Path) -> bytes:
    store = await open_sqlite(library.parent / "store.db")
    entry = await store.get("/a")
    await store.close()
    assert entry is not None
    return entry.value


async def test_nothing_was_written_stays_true_when_the_process_is_killed(library: Path) -> None:
    """The commit and its repetition fail; it is written over before its writer is told that nothing was written."""
    said = run(library, "2")
    assert said[0].startswith("507") and "nothing was written" in said[0]
    assert said[1] == "one"
    assert await value(library) == b"one"


async def test_what_is_not_known_is_called_so(library: Path) -> None:
    """Where it can't be written over, nobody promises anything: it may be there, and here it is."""
    said = run(library, "1000")
    assert said[0].startswith("503") and "nothing was written" not in said[0] and "whether it is written" in said[0]
    assert await value(library) in {b"one", b"two"}


async def test_nothing_else_is_written_meanwhile_and_it_heals(library: Path) -> None:
    """Later writes are refused untried until the disk works; then they work without opening the store anew."""
    said = run(library, "1000", "on")
    assert said[1].startswith("503") and "nothing was written" in said[1]
    assert said[2:] == ["stored", "four"]
    assert await value(library) == b"four"
