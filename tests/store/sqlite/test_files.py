"""The file: its owner, its mode, its schema."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from sourcelair.errors import Conflict, InvalidInput, LairError
from sourcelair.store import open_stores
from sourcelair.store.sqlite import files, open_sqlite

pytestmark = pytest.mark.anyio


async def test_only_its_user_can_read_it(tmp_path: Path) -> None:
    """Directory 0700, all files 0600, whatever the umask; a file that was more open is closed."""
    path = tmp_path / "data" / "store.db"
    umask = os.umask(0)
    try:
        store = await open_sqlite(path)
        await store.put("/a", b"")
    finally:
        os.umask(umask)
    assert path.parent.stat().st_mode & 0o777 == 0o700
    modes = {file.name: file.stat().st_mode & 0o777 for file in path.parent.iterdir()}
    assert modes == dict.fromkeys(["store.db", "store.db-wal", "store.db-shm", "store.db.lock"], 0o600)
    await store.close()


async def test_a_second_opener_is_refused_by_name(tmp_path: Path) -> None:
    """In this process and in another one; the message says which file, who has it and what to do. Then it is free."""
    path = tmp_path / "store.db"
    store = await open_sqlite(path)
    with pytest.raises(Conflict) as refused:
        await open_sqlite(path)
    for part in (str(path), f"process {os.getpid()}", "lair down"):
        assert part in refused.value.detail
    program = (
        "import asyncio, pathlib; from sourcelair.store.sqlite import open_sqlite; "
        f"asyncio.run(open_sqlite(pathlib.Path({str(path)!r})))"
    )
    other = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert f"Conflict: {path} is in use by process {os.getpid()}" in other.stderr
    await store.put("/still", b"works")
    await store.close()
    await (await open_sqlite(path)).close()


async def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    """Untouched, with both versions and what to do in the message."""
    path = tmp_path / "store.db"
    await (await open_sqlite(path)).close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(LairError, match=r"newer SourceLair \(schema 99; this one knows 1\)"):
        await open_sqlite(path)


async def test_an_older_schema_is_migrated_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Step by step, in one transaction: a step that fails leaves the old file as it was."""
    path = tmp_path / "store.db"
    store = await open_sqlite(path)
    await store.put("/kept", b"yes")
    await store.close()
    steps: list[int] = []

    def one_to_two(connection: sqlite3.Connection) -> None:
        steps.append(1)
        connection.execute("ALTER TABLE leases ADD COLUMN note TEXT")

    def broken(connection: sqlite3.Connection) -> None:
        connection.execute("ALTER TABLE no_such_table ADD COLUMN note TEXT")

    monkeypatch.setattr(files, "SCHEMA_VERSION", 3)
    monkeypatch.setattr(files, "MIGRATIONS", {1: one_to_two, 2: broken})
    with pytest.raises(LairError):
        await open_sqlite(path)
    monkeypatch.setattr(files, "MIGRATIONS", {1: one_to_two, 2: lambda _: steps.append(2)})
    for _ in range(2):
        store = await open_sqlite(path)
        entry = await store.get("/kept")
        assert entry is not None and entry.value == b"yes"
        await store.close()
    assert steps == [1, 1, 2]


async def test_files_of_others_are_not_touched(tmp_path: Path) -> None:
    """Another program's database, and what is no database, are refused by name and stay as they are."""
    database = tmp_path / "other.db"
    with sqlite3.connect(database) as connection:
        connection.execute("CREATE TABLE theirs (a)")
    connection.close()
    text = tmp_path / "text.db"
    text.write_text("not a database, and long enough to be looked at as one\n" * 100)
    for path in (database, text):
        before = path.read_bytes()
        with pytest.raises(LairError, match=str(path)):
            await open_sqlite(path)
        assert path.read_bytes() == before


async def test_places_that_cannot_be_are_said_clearly(tmp_path: Path) -> None:
    """A directory instead of a file, a file instead of a directory, an unknown kind of store."""
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "file" / "store.db"):
        with pytest.raises(LairError, match="can't be opened"):
            await open_sqlite(path)
    with pytest.raises(InvalidInput, match="redis://"):
        async with open_stores("redis://127.0.0.1"):
            pass


async def test_history_is_bounded_by_itself(tmp_path: Path) -> None:
    """Old changes are compacted as new ones come, so the file stops growing; keys and the newest history stay."""
    path = tmp_path / "store.db"
    store = await open_sqlite(path, history=200)
    for number in range(3000):
        await store.put(f"/k/{number % 3}", b"x" * 1000)
        if number == 1000:
            size = path.stat().st_size
    assert path.stat().st_size <= size * 1.5
    assert len((await store.list("/")).entries) == 3
    await store.close()
    with sqlite3.connect(path) as connection:
        (rows,) = connection.execute("SELECT count(*) FROM changes").fetchone()
    connection.close()
    assert rows <= 200 + 3
