"""A process whose main thread has ended, and whose others go on: to the kernel it is a zombie, and alive."""

from __future__ import annotations

import asyncio
import platform
import sys

import pytest
from tests.servers.drivers.subjects import ProcessSubject, python

from sourcelair.servers.drivers.process import members
from sourcelair.servers.drivers.process.identity import read_stat

pytestmark = pytest.mark.anyio

LEADERLESS = """
    import ctypes, socket, sys, threading, time
    server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
    threading.Thread(target=time.sleep, args=(600,)).start()
    ctypes.CDLL(None).syscall(ctypes.c_long(int(sys.argv[2])), 0)  # exit(2) ends this thread alone
"""
EXIT = {"x86_64": 60, "aarch64": 93}
"""Number of exit(2), by machine."""


@pytest.fixture
def number() -> int:
    machine = platform.machine()
    if machine not in EXIT:
        pytest.skip(f"the number of exit(2) on {machine} is not known here")
    return EXIT[machine]


async def test_it_runs_and_listens_and_is_ended(processes: ProcessSubject, number: int) -> None:
    """It is found by handle and by id, also by a driver that knows nothing of it; its sockets are its own."""
    order = processes.run([*python(LEADERLESS), "{port}", str(number)])
    driver = processes.driver()
    found = await driver.start(order)
    assert found.pid is not None
    while (stat := read_stat(found.pid)) is None or stat.state != "Z":
        await asyncio.sleep(0.005)
    ending = asyncio.ensure_future(driver.wait_exit(found))
    listener = await driver.listener(found, order.port)
    assert listener is not None and listener.port == order.port
    assert await driver.inspect(found.instance, found.handle) is not None
    for one in (driver, processes.driver()):
        assert [each.instance for each in await one.find_all()] == [found.instance]
    scanned = [each for each in members.scan(processes.installation) if each.stat.pid == found.pid]
    assert [each.instance for each in scanned] == [found.instance], "its environment is read of a thread that lives"
    assert not ending.done()
    await driver.stop(found, 5)
    await ending
    assert await driver.inspect(found.instance, found.handle) is None
    assert await driver.find_all() == []


async def test_a_real_zombie_has_ended(processes: ProcessSubject) -> None:
    """Nobody reaps it, and it is no member of anything."""
    fork = "import os, sys, time\nif os.fork() == 0: os._exit(0)\nprint('forked', flush=True)\ntime.sleep(600)"
    order = processes.run([sys.executable, "-I", "-S", "-c", fork])
    driver = processes.driver()
    found = await driver.start(order)
    while not order.log.exists() or "forked" not in order.log.read_text():
        await asyncio.sleep(0.005)
    while [each.stat.pid for each in members.scan(processes.installation) if each.instance == found.instance] != [
        found.pid
    ]:
        await asyncio.sleep(0.005)
    await driver.stop(found, 5)
