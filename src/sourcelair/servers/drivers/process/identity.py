"""Which process is meant: a pid is a number that is used again, so it never stands alone.

A process is named by its pid, its start time (field 22 of `/proc/PID/stat`, in clock ticks since boot) and the boot
that it belongs to, see proc(5). What is done to it goes through a pidfd (pidfd_open(2)) that was opened first and
compared afterwards, so that nothing can pass between the look and the act.
"""

from __future__ import annotations

import os
import select
import signal
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

PROC = Path("/proc")
_TICKS = os.sysconf("SC_CLK_TCK")


@cache
def this_boot() -> str:
    """Return what a pid of this machine is valid for: this boot, and this pid namespace."""
    namespace = str(Path("/proc/self/ns/pid").readlink()).removeprefix("pid:[").removesuffix("]")
    return (PROC / "sys/kernel/random/boot_id").read_text().strip() + "/" + namespace


def booted_at() -> float:
    """Return when this machine was booted, in Unix seconds (as its clock stands now)."""
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(frozen=True, slots=True)
class Identity:
    """One process, for ever. `start` in clock ticks since boot."""

    pid: int
    start: int
    boot: str

    @property
    def started_at(self) -> float:
        """When it started, in Unix seconds."""
        return booted_at() + self.start / _TICKS


@dataclass(frozen=True, slots=True)
class Stat:
    """What `/proc/PID/stat` says. A zombie (state `Z`) has ended, or its main thread alone has: its pidfd knows."""

    pid: int
    state: str
    parent: int
    session: int
    start: int


def read_stat(pid: int) -> Stat | None:
    """Return the stat of a process, or None when there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    # The second field is the program's name in brackets, which may hold spaces and brackets itself.
    fields = text[text.rindex(b")") + 2 :].split()
    return Stat(pid, fields[0].decode(), int(fields[1]), int(fields[3]), int(fields[19]))


def tasks(pid: int) -> list[int]:
    """Return the threads of a process, its main one (which may have ended before the others) left out."""
    try:
        return [int(name) for name in os.listdir(PROC / str(pid) / "task") if int(name) != pid]  # noqa: PTH208
    except OSError:
        return []


def open_process(identity: Identity) -> int | None:
    """Return a pidfd of this very process, or None when it is gone. The caller closes it."""
    if identity.boot != this_boot():
        return None
    return open_pid(identity.pid, identity.start)


def open_pid(pid: int, start: int) -> int | None:
    """Return a pidfd of the process with this pid and start time, or None when it has ended."""
    try:
        fd = os.pidfd_open(pid)
    except OSError:
        return None
    stat = read_stat(pid)
    if stat is None or stat.start != start or has_ended(fd):
        os.close(fd)
        return None
    return fd


def has_ended(pidfd: int) -> bool:
    """Return whether the process has ended, with all its threads (its zombie may still be there)."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def is_running(identity: Identity) -> bool:
    """Return whether this very process runs."""
    fd = open_process(identity)
    if fd is None:
        return False
    os.close(fd)
    return True


def send(pidfd: int, number: signal.Signals) -> None:
    """Send a signal; one that comes too late is no error."""
    try:
        signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        return
