"""Which processes belong to an instance: its cgroup's, its session's, and all that carry its id in the environment.

One pass over `/proc` costs about 20 microseconds a process, so it is for starts of the control plane and for stops,
and runs in a thread.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from sourcelair.servers.drivers.process.identity import (
    Identity,
    Stat,
    is_running,
    open_pid,
    read_stat,
    tasks,
    this_boot,
)

INSTANCE = "LAIR_INSTANCE"
INSTALLATION = "LAIR_INSTALLATION"


@dataclass(frozen=True, slots=True)
class Process:
    """A process of this installation, or one whose environment says nothing."""

    stat: Stat
    instance: str | None

    @property
    def identity(self) -> Identity:
        """Its name for ever."""
        return Identity(self.stat.pid, self.stat.start, this_boot())


@dataclass(frozen=True, slots=True)
class Member:
    """A process of an instance, held by a pidfd that whoever asked closes."""

    identity: Identity
    pidfd: int


def environment(pid: int, task: int | None = None) -> dict[str, str]:
    """Return what the process was started with (as far as it has not overwritten it), or nothing.

    Args:
        pid: of the process.
        task: a thread of it that is asked, where the main one has ended.
    """
    try:
        text = Path(f"/proc/{pid}/environ" if task is None else f"/proc/{pid}/task/{task}/environ").read_bytes()
    except OSError:
        return {}
    pairs = (item.partition(b"=") for item in text.split(b"\0") if b"=" in item)
    return {os.fsdecode(key): os.fsdecode(value) for key, _, value in pairs}


def scan(installation: str) -> list[Process]:
    """Return all processes that run; `instance` is set where the environment names one of this installation."""
    found = []
    ours = os.getpid()
    for name in os.listdir("/proc"):  # noqa: PTH208 - the names are the pids
        if not name.isdigit() or int(name) == ours:
            continue
        stat = read_stat(int(name))
        if stat is None or stat.state == "X":
            continue
        env = environment(stat.pid) if stat.state != "Z" else _environment_of_threads(stat)
        if env is None:
            continue
        instance = env.get(INSTANCE) if env.get(INSTALLATION) == installation else None
        found.append(Process(stat, instance))
    return found


def _environment_of_threads(stat: Stat) -> dict[str, str] | None:
    """Return the environment of a process whose main thread has ended; None if all of it has."""
    if not is_running(Identity(stat.pid, stat.start, this_boot())):
        return None
    return next((env for task in tasks(stat.pid) if (env := environment(stat.pid, task))), {})


def belonging(
    processes: Iterable[Process], instance: str, leader: Identity | None, grouped: Iterable[int]
) -> list[Process]:
    """Choose the processes of one instance.

    Args:
        processes: of a scan.
        instance: its id.
        leader: its main process, if known, running or not.
        grouped: the pids in its cgroup.
    """
    everyone = list(processes)
    pids = set(grouped)
    named = [process for process in everyone if process.instance == instance]
    # A pid is not used again while a session has its number. So the session is ours while its leader runs, and also
    # when one of its members carries our name; else the number may be another's by now.
    sessions = {process.stat.session for process in named}
    ours = leader is not None and leader.pid > 0 and (leader.pid in sessions or is_running(leader))
    session = leader.pid if leader is not None and ours else None
    return [
        process
        for process in everyone
        if process.instance == instance or process.stat.pid in pids or process.stat.session == session
    ]


def hold(processes: Iterable[Process]) -> list[Member]:
    """Open a pidfd of each that still runs."""
    found = []
    for process in processes:
        pidfd = open_pid(process.stat.pid, process.stat.start)
        if pidfd is not None:
            found.append(Member(process.identity, pidfd))
    return found
