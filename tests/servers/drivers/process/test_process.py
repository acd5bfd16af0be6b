"""What the process driver gives an instance: its limits, its environment, its port, and no way out of its group."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import signal
import sys

import psutil
import pytest
from tests.servers.drivers.subjects import BareSubject, ProcessSubject, python

from sourcelair.errors import InvalidInput
from sourcelair.servers.drivers.base import Found, Listener, StartFailed, StartOrder
from sourcelair.servers.drivers.process import ProcessDriver

pytestmark = pytest.mark.anyio


async def output_of(subject: ProcessSubject, order: StartOrder) -> str:
    """Run a command to its end, and return what it wrote."""
    driver = subject.driver()
    found = await driver.start(order)
    await driver.wait_exit(found)
    return order.log.read_text()


SHOW = """
    import json, os, resource, sys
    names = ("RLIMIT_NOFILE", "RLIMIT_AS", "RLIMIT_NPROC")
    print(json.dumps({
        "env": dict(os.environ), "args": sys.argv[1:], "cwd": os.getcwd(), "stdin": os.readlink("/proc/self/fd/0"),
        "limits": {name: resource.getrlimit(getattr(resource, name)) for name in names},
        "files": sorted(os.listdir("/proc/self/fd")), "session": os.getsid(0) == os.getpid(),
        "ignored": int(next(l for l in open("/proc/self/status") if l.startswith("SigIgn")).split()[1], 16),
    }))
"""


async def test_what_an_instance_sees(subject: ProcessSubject) -> None:
    """A clean environment, its port, its directory, no file of ours, its own session, signals as a shell gives them."""
    order = subject.run([*python(SHOW), "--port={port}", "a b;$(c)"], env={"MINE": "yes"})
    seen = json.loads(await output_of(subject, order))
    assert seen["args"] == [f"--port={order.port}", "a b;$(c)"]
    assert seen["cwd"] == str(subject.directory)
    assert seen["env"]["LAIR_INSTANCE"] == order.instance
    assert seen["env"]["LAIR_INSTALLATION"] == subject.installation
    assert not [name for name in seen["env"] if name.startswith("LAIR_") and name.endswith("TOKEN")]
    assert "PYTEST_CURRENT_TEST" not in seen["env"]
    assert seen["stdin"] == "/dev/null"
    assert [int(number) for number in seen["files"]][:3] == [0, 1, 2]
    assert len(seen["files"]) == 4, "it inherits no file but the first three (and sees the one that it lists them with)"
    assert seen["session"]
    assert not seen["ignored"] & (1 << (signal.SIGINT - 1) | 1 << (signal.SIGTERM - 1))


async def test_limits(bare: BareSubject) -> None:
    """Open files and address space as rlimits; processes too, where no cgroup counts them."""
    limits = {"open_files": 64, "memory_bytes": 512 << 20, "processes": 100}
    seen = json.loads(await output_of(bare, bare.run(python(SHOW), limits=limits)))["limits"]
    assert seen == {"RLIMIT_NOFILE": [64, 64], "RLIMIT_AS": [512 << 20] * 2, "RLIMIT_NPROC": [100, 100]}


async def test_what_is_above_our_own_limit_is_our_own(bare: BareSubject) -> None:
    seen = json.loads(await output_of(bare, bare.run(python(SHOW), limits={"open_files": 1 << 40})))["limits"]
    assert seen["RLIMIT_NOFILE"][0] > 64


async def test_too_much_memory_is_refused(bare: BareSubject) -> None:
    """The limit holds: a program that asks for more gets an error, and not the machine's memory."""
    command = python("bytearray(1 << 30)")
    text = await output_of(bare, bare.run(command, limits={"memory_bytes": 256 << 20}))
    assert "MemoryError" in text


FORKS = """
    import os, sys, time
    pids = []
    try:
        for _ in range(50):
            pid = os.fork()
            if not pid:
                time.sleep(600)
    except OSError as error:
        print("refused:", error.errno, flush=True)
    print("done", flush=True)
    time.sleep(600)
"""


async def until_logged(order: StartOrder, text: str) -> str:
    async with asyncio.timeout(10):
        while text not in (found := order.log.read_text() if order.log.exists() else ""):
            await asyncio.sleep(0.01)
    return found


async def test_too_many_processes_are_refused(subject: ProcessSubject) -> None:
    subject.needs("pids")
    driver = subject.driver()
    order = subject.run(python(FORKS), limits={"processes": 10})
    found = await driver.start(order)
    assert "refused: 11" in await until_logged(order, "done")
    await driver.stop(found, 0)


DAEMON = """
    import os, sys, time
    if os.fork():
        time.sleep(600)
    os.setsid()
    if os.fork():
        os._exit(0)
    print("daemon", os.getpid(), flush=True)
    import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(600)
"""


@pytest.mark.parametrize("grouped", [True, False])
async def test_what_left_its_session_is_ended_too(subject: ProcessSubject, bare: BareSubject, grouped: bool) -> None:
    """Daemons of an instance hold its port: nothing of it may be left after a stop."""
    subject = subject if grouped else bare
    driver = subject.driver()
    order = subject.run(python(DAEMON))
    found = await driver.start(order)
    pid = int((await until_logged(order, "daemon")).split()[1])
    await driver.stop(found, 0.2)
    with contextlib.suppress(psutil.NoSuchProcess):
        assert psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


async def until_listening(driver: ProcessDriver, found: Found, port: int) -> Listener:
    async with asyncio.timeout(10):
        while (listener := await driver.listener(found, port)) is None:
            await asyncio.sleep(0.005)
    return listener


@pytest.mark.parametrize(
    ("bind", "published", "local"),
    [
        ("127.0.0.1", {"127.0.0.1"}, True),
        ("::1", {"::1"}, True),
        ("::ffff:127.0.0.1", {"127.0.0.1"}, True),
        ("0.0.0.0", {"127.0.0.1"}, False),
        ("::", {"127.0.0.1", "::1"}, False),
        ("::ffff:0.0.0.0", {"127.0.0.1"}, False),
    ],
)
async def test_where_it_really_listens_is_found(
    subject: ProcessSubject, bind: str, published: set[str], local: bool
) -> None:
    """Node's tools often take `[::1]` only: that is what is published then. Other machines reach what is not local."""
    driver = subject.driver()
    order = subject.run([sys.executable, "-m", "http.server", "{port}", "--bind", bind])
    found = await driver.start(order)
    listener = await until_listening(driver, found, order.port)
    assert listener.host in published and listener.local is local


@pytest.mark.parametrize(
    ("command", "word"),
    [
        (["nothing-like-this"], "not on PATH"),
        (["./missing"], "program not found"),
        (["/tmp"], "not an executable"),
        (["/etc/passwd"], "not an executable"),
    ],
)
async def test_programs_that_cannot_run(subject: ProcessSubject, command: list[str], word: str) -> None:
    with pytest.raises(StartFailed, match=word):
        await subject.driver().start(subject.run(command))


async def test_debian_has_no_python_but_python3(subject: ProcessSubject) -> None:
    bin_ = subject.directory / "bin"
    bin_.mkdir()
    (bin_ / "python3").symlink_to(sys.executable)
    order = dataclasses.replace(subject.run(["python", "-m", "http.server"]), env={"PATH": str(bin_)})
    with pytest.raises(StartFailed, match="python is not on PATH; python3 is"):
        await subject.driver().start(order)


async def test_a_program_that_is_no_program(subject: ProcessSubject) -> None:
    """Executable, and neither a script nor a binary: what the shell says of it is in the log."""
    file = subject.directory / "data"
    file.write_bytes(b"\0\1\2\3")
    file.chmod(0o755)
    driver = subject.driver()
    order = subject.run(["./data"])
    status = await driver.wait_exit(await driver.start(order))
    assert status.code in {126, 127}
    assert order.log.read_text()


@pytest.mark.parametrize(
    "spec",
    [
        {"command": []},
        {"command": [""]},
        {"command": ["a\0b"]},
        {"directory": None},
        {"directory": "relative"},
        {"env": {"A=B": "x"}},
        {"env": {"A": "\ud800"}},
        {"command": ["x" * 200_000]},
        {"command": ["x" * 90_000] * 20},
    ],
)
async def test_specs_that_can_never_run_are_refused(bare: BareSubject, spec: dict[str, object]) -> None:
    whole = {"command": ["true"], "directory": "/tmp", **spec}
    made = bare.run(["true"]).spec.model_copy(update=whole)
    with pytest.raises(InvalidInput, match=r"^spec"):
        bare.driver().check(made)


LONG = "x" * 5000
"""A name that the kernel does not even look for; a directory without permission is no obstacle to root."""


async def test_entries_of_path_that_can_not_be_looked_at_are_passed_over(bare: BareSubject) -> None:
    """As a shell does."""
    order = bare.run(["sh", "-c", "echo found"])
    path = f"/{LONG}:{bare.directory}/{LONG}:{os.environ['PATH']}"
    order = dataclasses.replace(order, env={**order.env, "PATH": path})
    assert await output_of(bare, order) == "found\n"


@pytest.mark.parametrize(
    ("command", "directory", "words"),
    [
        (["true"], f"/{LONG}", "its directory /x+ can't be looked at: file name too long"),
        ([f"./{LONG}"], "/", "program not found: ./x+: it can't be looked at: file name too long"),
        ([LONG], "/", "program not found: x+ is not on PATH"),
    ],
)
async def test_what_can_not_be_looked_at_is_told(
    bare: BareSubject, command: list[str], directory: str, words: str
) -> None:
    """In words for its user, not as an error of ours."""
    with pytest.raises(StartFailed, match=words):
        await bare.driver().start(bare.run(command, directory=directory))


async def test_any_error_of_the_system_is_a_failed_start(bare: BareSubject, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it is that the system refuses."""

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "access", refuse)
    with pytest.raises(StartFailed, match="it can't be started: Permission denied"):
        await bare.driver().start(bare.run(["true"]))


HALF_A_START = """
import asyncio, sys
from pathlib import Path
import psutil
from tests.servers.drivers.subjects import ProcessSubject

async def main():
    subject = ProcessSubject(Path(sys.argv[1]))
    order = subject.run(["touch", "it-ran"])

    async def first(go):
        while not (launchers := psutil.Process().children()):
            await asyncio.sleep(0.001)
        print(launchers[0].pid, flush=True)
        await asyncio.Event().wait()

    await subject.driver().start(order, first)

asyncio.run(main())
"""


async def test_a_launcher_whose_control_plane_is_killed_runs_nothing(subject: ProcessSubject) -> None:
    """It waits for the word, claims nothing meanwhile, and ends with whoever would have said it."""
    half = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HALF_A_START, str(subject.directory), stdout=asyncio.subprocess.PIPE
    )
    assert half.stdout is not None
    launcher = psutil.Process(int(await half.stdout.readline()))
    half.kill()
    await half.wait()
    with contextlib.suppress(psutil.NoSuchProcess):
        await asyncio.to_thread(launcher.wait, 10)
    assert not (subject.directory / "it-ran").exists()
    assert list((subject.directory / "mine" / "claims").iterdir()) == []
