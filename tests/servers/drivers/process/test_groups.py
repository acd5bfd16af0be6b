"""The cgroups of instances: who is in them and when, what is frozen, and what is left of them."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.servers.drivers.subjects import ProcessSubject, SplitSubject, UnifiedSubject, python

from sourcelair.client.policy import Limits
from sourcelair.servers.drivers.base import Found, PauseFailed, StartFailed, StartOrder
from sourcelair.servers.drivers.process import ProcessDriver
from sourcelair.servers.drivers.process.groups import Groups, freezer
from sourcelair.servers.drivers.process.groups.hierarchies import group_of
from sourcelair.servers.drivers.process.identity import Stat, read_stat

pytestmark = pytest.mark.anyio


@pytest.fixture(params=[UnifiedSubject, SplitSubject], ids=lambda subject: subject.__name__)
async def subject(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ProcessSubject]:
    """Real processes with cgroups of each version, where they can freeze."""
    subject = request.param(tmp_path)
    if "pause" not in subject.driver().capabilities:
        pytest.skip("nothing can be frozen here")
    yield subject
    await subject.close()


def groups_of(subject: ProcessSubject, pid: int) -> list[str]:
    """Return the groups of a process, in all hierarchies of the subject."""
    return [group_of(pid, each.name) for each in subject.hierarchies()]


async def until_joined(subject: ProcessSubject, found: Found, pid: int | None = None) -> None:
    pid = pid or found.pid
    assert pid is not None
    while not all(path.endswith(f"/{found.instance}") for path in groups_of(subject, pid)):
        await asyncio.sleep(0.002)


async def until_logged(order: StartOrder, text: str) -> str:
    while text not in (found := order.log.read_text() if order.log.exists() else ""):
        await asyncio.sleep(0.01)
    return found


BEATING = """
    import itertools, os, sys, time
    def beat(name):
        for number in itertools.count():
            with open(f"{sys.argv[1]}/{name}", "w") as file:
                file.write(str(number))
            time.sleep(0.002)
    for number in range(3):
        if not os.fork():
            if number == 2:
                os.setsid()
                if os.fork():
                    os._exit(0)
            beat(number)
    beat("main")
"""


def hearts(directory: Path) -> list[str]:
    return [(directory / name).read_text() for name in ("main", "0", "1", "2")]


@pytest.mark.parametrize("joined", [True, False])
async def test_all_that_it_has_forked_stands_still_and_goes_on(subject: ProcessSubject, joined: bool) -> None:
    """Whether it is in its group by then or not; what left its session too."""
    driver = subject.driver()
    order = subject.run(python(BEATING, str(subject.directory)))
    found = await driver.start(order)
    while not all((subject.directory / name).exists() for name in ("main", "0", "1", "2")):
        await asyncio.sleep(0.002)
    if joined:
        await until_joined(subject, found)
    await driver.pause(found)
    before = hearts(subject.directory)
    await asyncio.sleep(0.1)
    assert hearts(subject.directory) == before
    await driver.resume(found)
    while any(one == other for one, other in zip(before, hearts(subject.directory), strict=True)):
        await asyncio.sleep(0.002)


async def test_a_crowd_that_goes_on_forking_is_frozen_whole(subject: ProcessSubject) -> None:
    """Nothing is born while it is paused, and what lives then is in the group."""
    source = """
        import os, time
        while True:
            try:
                if not os.fork():
                    time.sleep(0.02)
                    os._exit(0)
            except BlockingIOError:  # Its limit of processes, where there is one.
                time.sleep(0.002)
            try:
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            except ChildProcessError:
                pass
    """
    driver = subject.driver()
    found = await driver.start(subject.run(python(source), limits={"processes": 50}))
    for _ in range(5):
        try:
            await driver.pause(found)
        except PauseFailed:  # It is that busy; then it runs on, and is paused at another time.
            assert not (await driver.find_all())[0].paused
            continue
        await asyncio.sleep(
            0.03
        )  # one that was just being forked is born frozen, and its state shows that a moment later
        states = [stat.state for stat in _session(found.pid)]
        born = max(stat.start for stat in _session(found.pid))
        await asyncio.sleep(0.03)
        assert "R" not in states
        assert max(stat.start for stat in _session(found.pid)) == born
        await driver.resume(found)


def _session(leader: int | None) -> list[Stat]:
    stats = (read_stat(int(entry.name)) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return [stat for stat in stats if stat is not None and stat.session == leader]


async def test_a_kill_from_outside_ends_it_at_the_latest_when_it_is_resumed(subject: ProcessSubject) -> None:
    """A frozen group of v1 takes no signal at all; nothing that waits for it is told a wrong end."""
    driver = subject.driver()
    found = await driver.start(subject.run(["sleep", "600"]))
    await driver.pause(found)
    waiting = asyncio.create_task(driver.wait_exit(found))
    assert found.pid is not None
    os.kill(found.pid, 9)
    await driver.resume(found)
    assert (await waiting).signal == 9
    assert await driver.find_all() == []


async def test_what_a_main_process_left_frozen_is_cleared_away(subject: ProcessSubject) -> None:
    """A control plane that comes later finds only children, paused: it ends them."""
    driver = subject.driver()
    order = subject.run(python("import os, time\nprint(os.fork(), flush=True)\ntime.sleep(600)"))
    found = await driver.start(order)
    await until_logged(order, "0\n")
    await driver.pause(found)
    assert found.pid is not None
    os.kill(found.pid, 9)
    await driver.resume(found)
    while (stat := read_stat(found.pid)) is not None and stat.state != "Z":
        await asyncio.sleep(0.002)
    await driver.pause(found)
    successor = subject.driver()
    (left,) = await successor.find_all()
    assert left.pid is None
    assert left.paused
    await successor.wait_exit(left)
    assert await driver.find_all() == []


async def test_a_pause_that_takes_too_long_is_taken_back(
    subject: ProcessSubject, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel's answer is ours here: what really waits for a disk, and can't be frozen, can't be made to order."""
    driver = subject.driver()
    found = await driver.start(subject.run(["sleep", "600"]))
    monkeypatch.setattr(freezer, "wait", lambda group, deadline, *, unified: False)
    with pytest.raises(PauseFailed, match="could be frozen within 1 s"):
        await driver.pause(found)
    assert not (await driver.find_all())[0].paused
    monkeypatch.undo()
    await driver.pause(found)
    assert (await driver.find_all())[0].paused


async def test_without_limits_nothing_is_joined_before_the_command_runs(
    subject: ProcessSubject, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A first move takes the kernel milliseconds, and is no part of a wake; it comes right after."""
    driver = subject.driver()
    joined = asyncio.Event()
    loop = asyncio.get_running_loop()
    join = Groups.join

    def late(groups: Groups, instance: str, pid: int, start: int) -> None:
        asyncio.run_coroutine_threadsafe(joined.wait(), loop).result()
        join(groups, instance, pid, start)

    monkeypatch.setattr(Groups, "join", late)
    order = subject.run(["/bin/sh", "-c", "cat /proc/self/cgroup; exec sleep 600"])
    found = await driver.start(order)
    text = await until_logged(order, "0::")
    assert found.instance not in text
    joined.set()
    await until_joined(subject, found)


async def test_with_limits_it_is_in_its_groups_from_the_first_instruction(subject: ProcessSubject) -> None:
    """Where it could fork away otherwise."""
    subject.needs("pids")
    order = subject.run(["/bin/sh", "-c", "cat /proc/self/cgroup"], limits={"processes": 50})
    driver = subject.driver()
    await driver.wait_exit(await driver.start(order))
    assert f"/{order.instance}\n" in order.log.read_text()


async def test_one_that_can_not_join_its_limits_never_runs(
    subject: ProcessSubject, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here its group is removed between the making and the joining."""
    subject.needs("pids")
    limit = Groups.limit

    def limit_and_remove(groups: Groups, instance: str, asked: Limits) -> object:
        limited = limit(groups, instance, asked)
        groups.remove(instance)
        return limited

    monkeypatch.setattr(Groups, "limit", limit_and_remove)
    driver = subject.driver()
    order = subject.run(["touch", str(subject.directory / "ran")], limits={"processes": 50})
    with pytest.raises(StartFailed, match="its limits can't be enforced"):
        await driver.start(order)
    assert not (subject.directory / "ran").exists()
    assert await driver.void(order.instance), "it has claimed nothing"


async def test_groups_of_the_dead_are_removed_when_a_control_plane_starts(subject: ProcessSubject) -> None:
    """Those that one left which was killed; those of what runs stay."""
    driver = subject.driver()
    found = await driver.start(subject.run(["sleep", "600"]))
    await until_joined(subject, found)
    bases = [each.parent / f"lair-{subject.installation}" for each in subject.hierarchies()]
    for base in bases:
        (base / "dead" / "below").mkdir(parents=True)
    subject.driver()
    assert [base for base in bases if (base / "dead").exists()] == []
    assert all((base / found.instance).exists() for base in bases)
    await driver.stop(found, 0)
    assert [base for base in bases if (base / found.instance).exists()] == []


async def test_groups_that_a_control_plane_elsewhere_has_made_are_found(subject: ProcessSubject) -> None:
    """In another session it has other groups of its own: what it froze there must be thawed all the same."""
    elsewhere = [
        dataclasses.replace(each, parent=each.parent / f"session-{subject.installation}")
        for each in subject.hierarchies()
    ]
    for each in elsewhere:
        each.parent.mkdir()
    try:
        first = ProcessDriver(
            subject.directory / "mine", subject.installation, groups=Groups(subject.installation, elsewhere)
        )
        found = await first.start(subject.run(["sleep", "600"]))
        await first.pause(found)
        successor = subject.driver()
        (adopted,) = await successor.find_all()
        assert adopted.paused
        began = time.monotonic()
        await successor.stop(adopted, 30)
        assert time.monotonic() - began < 20
        await first.close()
    finally:
        for each in elsewhere:
            for left in each.parent.glob("lair-*"):
                left.rmdir()
            each.parent.rmdir()


async def test_a_group_that_the_kernel_still_holds_is_removed_a_moment_later(subject: ProcessSubject) -> None:
    """As after the last process of it has ended: nothing is left behind."""
    driver = subject.driver()
    found = await driver.start(subject.run(["sleep", "600"]))
    await until_joined(subject, found)
    paths = [each.mount / group_of(found.pid or 0, each.name).lstrip("/") for each in subject.hierarchies()]
    await driver.stop(found, 5)
    for path in paths:
        (path / "held").mkdir(parents=True)
    guest = await asyncio.create_subprocess_exec("sleep", "600")
    for path in paths:
        (path / "held" / "cgroup.procs").write_text(str(guest.pid))
    forgetting = asyncio.create_task(driver.forget(found.instance))
    await asyncio.sleep(0.05)
    assert not forgetting.done()
    guest.kill()
    await guest.wait()
    await forgetting
    assert not any(path.exists() for path in paths)
