"""Limits of memory and processors: enforced by cgroups where this machine has them, and told where it has not."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from pathlib import Path

import psutil
import pytest
from tests.servers.drivers.subjects import BareSubject, ProcessSubject, python

from sourcelair.client.policy import Limits
from sourcelair.errors import InvalidInput
from sourcelair.servers.drivers.base import ExitStatus, Found, StartFailed, StartOrder
from sourcelair.servers.drivers.process import ProcessDriver
from sourcelair.servers.drivers.process.groups import hierarchies

pytestmark = pytest.mark.anyio

MIB = 1 << 20

GREEDY = """
    import sys, time
    print("eating", flush=True)
    eaten = bytearray(int(sys.argv[1]))
    for page in range(0, len(eaten), 4096):
        eaten[page] = 1
    print("eaten", flush=True)
    time.sleep(600)
"""

FORKING = """
    import os, sys, time
    print("main", flush=True)
    pid = os.fork()
    if not pid:
        eaten = bytearray(int(sys.argv[1]))
        for page in range(0, len(eaten), 4096):
            eaten[page] = 1
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    print("child", os.waitstatus_to_exitcode(status), flush=True)
    if sys.argv[2] == "stays":
        time.sleep(600)
    sys.exit(int(sys.argv[2]))
"""

WAITING = """
    import os, sys, time
    while not os.path.exists(sys.argv[2]):
        time.sleep(0.01)
    eaten = bytearray(int(sys.argv[1]))
    for page in range(0, len(eaten), 4096):
        eaten[page] = 1
"""

SHARING = """
    import os, sys, time
    for _ in range(4):
        if not os.fork():
            eaten = bytearray(int(sys.argv[1]))
            for page in range(0, len(eaten), 4096):
                eaten[page] = 1
            time.sleep(600)
    os.wait()
    sys.exit(1)
"""


async def run(driver: ProcessDriver, order: StartOrder) -> tuple[Found, ExitStatus]:
    found = await driver.start(order)
    return found, await driver.wait_exit(found)


async def until_logged(order: StartOrder, text: str) -> str:
    while text not in (found := order.log.read_text() if order.log.exists() else ""):
        await asyncio.sleep(0.01)
    return found


async def test_what_takes_too_much_memory_is_killed_and_that_is_told(subject: ProcessSubject) -> None:
    subject.needs("memory")
    driver = subject.driver()
    order = subject.run(python(GREEDY, str(200 * MIB)), limits={"memory_bytes": 64 * MIB})
    found, status = await run(driver, order)
    assert status == ExitStatus(signal=9, out_of_memory=True)
    assert order.log.read_text() == "eating\n"
    assert await driver.wait_exit(found) == status, "it is still known when its group is gone"
    assert await driver.stop(found, 0) == status
    await driver.forget(found.instance)
    assert await driver.wait_exit(found) == ExitStatus()


async def test_what_stays_below_is_left_alone_whatever_it_reserves(subject: ProcessSubject) -> None:
    """Address space is no memory: many runtimes reserve gigabytes of it and use none."""
    subject.needs("memory")
    reserving = "import mmap; kept = mmap.mmap(-1, 1 << 32); print('reserved', flush=True)"
    order = subject.run(python(reserving), limits={"memory_bytes": 64 * MIB})
    _, status = await run(subject.driver(), order)
    assert status == ExitStatus(code=0)
    assert order.log.read_text() == "reserved\n"


@pytest.mark.parametrize(("ends", "told"), [("1", True), ("0", False)])
async def test_a_child_that_takes_too_much_is_told_where_the_app_fails_of_it(
    subject: ProcessSubject, ends: str, told: bool
) -> None:
    subject.needs("memory")
    order = subject.run(python(FORKING, str(200 * MIB), ends), limits={"memory_bytes": 64 * MIB})
    _, status = await run(subject.driver(), order)
    if status.code is not None:  # With v2 the whole group is killed.
        assert order.log.read_text() == "main\nchild -9\n"
        assert status == ExitStatus(code=int(ends), out_of_memory=told)
    else:
        assert status == ExitStatus(signal=9, out_of_memory=True)


async def test_memory_is_counted_for_all_processes_together(subject: ProcessSubject) -> None:
    """None of them is above the limit by itself."""
    subject.needs("memory")
    order = subject.run(python(SHARING, str(30 * MIB)), limits={"memory_bytes": 80 * MIB})
    _, status = await run(subject.driver(), order)
    assert status.out_of_memory


async def test_it_is_told_by_a_control_plane_that_did_not_start_it(subject: ProcessSubject) -> None:
    """How it ended is unknown to that one, and why it did is not."""
    subject.needs("memory")
    order = subject.run(
        python(WAITING, str(200 * MIB), str(subject.directory / "go")), limits={"memory_bytes": 64 * MIB}
    )
    await subject.driver().start(order)
    successor = subject.driver()
    (adopted,) = await successor.find_all()
    waiter = asyncio.create_task(successor.wait_exit(adopted))
    (subject.directory / "go").touch()
    assert (await waiter).out_of_memory


async def test_one_that_was_killed_otherwise_is_not_told_so(subject: ProcessSubject) -> None:
    driver = subject.driver()
    found = await driver.start(subject.run(["sleep", "600"], limits={"memory_bytes": 64 * MIB}))
    assert await driver.stop(found, 0) == ExitStatus(signal=9, out_of_memory=False)


async def test_a_limit_that_no_program_fits_into_is_told(subject: ProcessSubject) -> None:
    """It is killed as it starts, or can't start at all: either says why."""
    subject.needs("memory")
    driver = subject.driver()
    order = subject.run(python("print()"), limits={"memory_bytes": 1 * MIB})
    told = []
    try:
        told.append((await run(driver, order))[1].out_of_memory)
    except StartFailed as error:
        told.append("limits.memory_bytes" in str(error))
    assert told == [True]
    assert await driver.find_all() == []


BUSY = """
    import os, time
    for _ in range(3):
        if not os.fork():
            while True:
                pass
    time.sleep(600)
"""


async def test_processors_are_limited_for_all_processes_together(subject: ProcessSubject) -> None:
    """The kernel holds back those that spin, all of them with what started them in one group."""
    subject.needs("cpu")
    driver = subject.driver()
    found = await driver.start(subject.run(python(BUSY), limits={"cpus": 0.1}))
    assert found.pid is not None
    stat = group_of(subject, found.pid, "cpu") / "cpu.stat"
    while "nr_throttled 0" in (seen := stat.read_text()) or "nr_throttled" not in seen:
        await asyncio.sleep(0.05)
    while len(psutil.Process(found.pid).children()) < 3:
        await asyncio.sleep(0.01)
    pids = {found.pid, *(child.pid for child in psutil.Process(found.pid).children())}
    assert {group_of(subject, pid, "cpu") for pid in pids} == {stat.parent}


def group_of(subject: ProcessSubject, pid: int, controller: str) -> Path:
    """Return the cgroup in which a controller of this machine has a process."""
    (place,) = (each for each in subject.hierarchies() if controller in each.controllers)
    return place.mount / hierarchies.group_of(pid, place.name).lstrip("/")


async def test_where_processors_can_not_be_limited_a_spec_that_does_is_refused(bare: BareSubject) -> None:
    """When it is stored, and when it starts after all: on another machine, say."""
    driver = bare.driver()
    order = bare.run(["sleep", "600"], limits={"cpus": 0.5})
    with pytest.raises(InvalidInput, match=r"^spec\.limits\.cpus: .*cpu controller.*(root|delegated).*leave"):
        driver.check(order.spec)
    with pytest.raises(StartFailed, match=r"limits\.cpus can't be enforced"):
        await driver.start(order)
    assert await driver.find_all() == []


async def test_where_processors_can_not_be_limited_an_owners_limit_is_no_failure(bare: BareSubject) -> None:
    driver = bare.driver()
    order = dataclasses.replace(bare.run(["sleep", "600"]), limits=Limits(cpus=0.5))
    driver.check(order.spec)
    found = await driver.start(order)
    assert await driver.inspect(found.instance, found.handle) is not None


SHOW = """
    import json, resource
    names = ("RLIMIT_NOFILE", "RLIMIT_AS", "RLIMIT_NPROC")
    print(json.dumps({name: resource.getrlimit(getattr(resource, name))[0] for name in names}))
"""


async def test_the_limits_in_effect_count_not_the_specs(bare: BareSubject) -> None:
    """What its owner says is enforced as well."""
    limits = Limits(open_files=64, memory_bytes=512 * MIB, processes=100)
    order = dataclasses.replace(bare.run(python(SHOW), limits={"open_files": 99}), limits=limits)
    await run(bare.driver(), order)
    seen = json.loads(order.log.read_text())
    assert seen == {"RLIMIT_NOFILE": 64, "RLIMIT_AS": 512 * MIB, "RLIMIT_NPROC": 100}


async def test_what_a_cgroup_limits_is_not_limited_twice(subject: ProcessSubject) -> None:
    subject.needs("memory", "pids")
    order = subject.run(python(SHOW), limits={"memory_bytes": 512 * MIB, "processes": 100})
    await run(subject.driver(), order)
    seen = json.loads(order.log.read_text())
    assert seen["RLIMIT_AS"] == -1
    assert seen["RLIMIT_NPROC"] != 100
