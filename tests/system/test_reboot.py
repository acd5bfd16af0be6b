"""The machine was rebooted: every process is gone, somebody else has the old port, and the files remember it all."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from tests.system.lair import Lair
from tests.system.processes import gone
from tests.system.site import IDENTITY, site_of
from tests.system.visitors import Answer, fetch

pytestmark = [pytest.mark.anyio, pytest.mark.system]


def boot_again(journal: Path) -> None:
    """Make the agent's file one of an earlier boot: its first line holds the boot's id behind a CRC-32."""
    first, rest = journal.read_bytes().split(b"\n", 1)
    head = json.loads(first.split(b" ", 1)[1])
    data = json.dumps({**head, "boot": "another-boot"}, separators=(",", ":")).encode()
    journal.write_bytes(b"%08x %s\n" % (zlib.crc32(data), data) + rest)


async def test_no_target_of_an_earlier_boot_is_served(tmp_path: Path) -> None:
    """A stranger listens where the server was: from the first moment visitors reach the server itself, or wait."""
    lair = Lair(tmp_path / "lair")
    stranger: subprocess.Popen[bytes] | None = None
    try:
        await asyncio.to_thread(lair.start)
        async with site_of(lair) as site:
            app = await site.identity("boot", "again", tmp_path)
            assert (await app.fetch("/")).status == 200
            instance = (await app.server()).instance
        assert instance is not None
        assert instance.port is not None
        lair.kill9()
        old = [process.pid for process in [*lair.nginx(), *lair.instances()]]
        for pid in old:
            os.kill(pid, signal.SIGKILL)
        await gone(old)
        boot_again(lair.data_dir / "agent" / "routes")
        books = tmp_path / "stranger"
        books.mkdir()
        stranger = subprocess.Popen([sys.executable, str(IDENTITY), str(instance.port), str(books), "stranger"])
        async with asyncio.timeout(10):
            while not (books / "starts").exists():
                await asyncio.sleep(0.02)
        answers: list[Answer] = []
        starting = asyncio.create_task(asyncio.to_thread(lair.start))
        while not starting.done() or not any(answer.status == 200 for answer in answers):
            try:
                answers.append(await fetch(("127.0.0.1", lair.port), app.host))
            except OSError:
                await asyncio.sleep(0.01)
        await starting
        assert {answer.headers.get("server-name") for answer in answers if answer.status == 200} == {app.name}
        assert len(app.starts()) == 2
        await asyncio.to_thread(lair.stop)
    finally:
        if stranger is not None:
            stranger.kill()
            stranger.wait()
        await asyncio.to_thread(lair.close)
