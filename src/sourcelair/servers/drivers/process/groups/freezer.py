"""Freezing a group, and all that is or comes into it.

v1: `freezer.state`, see freezer-subsystem.rst of the kernel. Writing FROZEN begins it; the state is FREEZING until all
have stopped, and each reading of it looks again. Its processes take no signal, not even SIGKILL, until it is thawed.
v2: `cgroup.freeze`, see cgroup-v2.rst. `cgroup.events` says when all have stopped, and can be polled.
"""

from __future__ import annotations

import errno
import select
import time
from pathlib import Path

LOOK_AGAIN = 0.001
"""Seconds between two looks at the state of v1, which can't be waited for."""


def _events(group: Path) -> Path:
    return group / "cgroup.events"


def begin(group: Path, *, unified: bool) -> None:
    """Begin to freeze a group.

    Raises:
        OSError: there is no such group.
    """
    if unified:
        (group / "cgroup.freeze").write_text("1")
    else:
        (group / "freezer.state").write_text("FROZEN")


def thaw(group: Path, *, unified: bool) -> None:
    """Let a group run. One that runs or is gone is no error."""
    try:
        if unified:
            (group / "cgroup.freeze").write_text("0")
        else:
            (group / "freezer.state").write_text("THAWED")
    except OSError as error:
        if error.errno not in {errno.ENOENT, errno.ENODEV}:  # The second is of one that is removed just now.
            raise


def is_asked(group: Path, *, unified: bool) -> bool:
    """Return whether a group is frozen, or about to be."""
    try:
        if unified:
            return (group / "cgroup.freeze").read_text().strip() == "1"
        return (group / "freezer.state").read_text().strip() != "THAWED"
    except OSError:
        return False


def wait(group: Path, deadline: float, *, unified: bool) -> bool:
    """Wait until the whole group is frozen.

    Args:
        group: that is being frozen.
        deadline: on the monotonic clock.
        unified: whether it is of v2.

    Returns:
        whether it is; False at the deadline.

    Raises:
        OSError: the group is gone.
    """
    return _wait_unified(group, deadline) if unified else _wait(group, deadline)


def _wait(group: Path, deadline: float) -> bool:
    while (group / "freezer.state").read_text().strip() != "FROZEN":
        if time.monotonic() > deadline:
            return False
        time.sleep(LOOK_AGAIN)
    return True


def _wait_unified(group: Path, deadline: float) -> bool:
    with _events(group).open() as events:
        poll = select.poll()
        poll.register(events, select.POLLPRI)
        while True:
            events.seek(0)
            if "frozen 1" in events.read():
                return True
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                return False
            poll.poll(remaining * 1000)
