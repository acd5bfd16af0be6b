"""`lair down`: stop everything, also what is left where no control plane runs any more."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import time
from typing import TYPE_CHECKING

from sourcelair.cli import output
from sourcelair.cli.command import command
from sourcelair.cli.session import Session
from sourcelair.errors import Conflict, LairError

if TYPE_CHECKING:
    from sourcelair.cli.system.directory import DataDirectory

DOWN_TIMEOUT = 45.0
"""Seconds that a running `lair up` has to end: longer than servers have by default."""

LOOK_AGAIN = 0.05
"""Seconds between looks at whether it has ended and let go of the lock, which gives no notice."""


@command
async def down(session: Session) -> None:
    """Stop everything: the control plane, NGINX and all project servers. Also what is left where the first is gone."""
    from sourcelair.cli.system.directory import DataDirectory
    from sourcelair.cli.system.leftovers import stop_leftovers

    directory = DataDirectory(session.data_dir)
    if not directory.path.is_dir():
        _report_down(session, False, 0, False)
        return
    directory.prepare()
    was_running = await _end_control_plane(session, directory)
    try:
        instances, nginx = await stop_leftovers(session.settings, directory)
        directory.renounce()
    finally:
        directory.unlock()
    _report_down(session, was_running, instances, nginx)


async def _end_control_plane(session: Session, directory: DataDirectory) -> bool:
    """Have a running `lair up` stop everything; return with the lock, and whether there was one."""
    try:
        directory.lock()
    except Conflict:
        processes = directory.processes()
    else:
        return False
    held = [descriptor for process in processes if (descriptor := _hold(process)) is not None]
    try:
        if directory.has_parts():
            for process in processes:
                _signal(process)
        else:
            await _ask_to_stop(session, processes[0] if processes else None)
        deadline = time.monotonic() + DOWN_TIMEOUT
        # It lets go of the lock shortly before it ends.
        while not (all(map(_has_ended, held)) and _took(directory)):
            if time.monotonic() > deadline:
                raise LairError(
                    f"Process {', '.join(map(str, processes))} has not ended within {DOWN_TIMEOUT:.0f} s. "
                    "Kill it with `kill -9`, and run `lair down` again."
                )
            await asyncio.sleep(LOOK_AGAIN)
    finally:
        for descriptor in held:
            os.close(descriptor)
    return True


def _hold(process: int) -> int | None:
    """Return a pidfd of a process, since its number may be another's later; None where it can't be seen from here."""
    try:
        return os.pidfd_open(process)
    except OSError:
        return None


def _has_ended(held: int) -> bool:
    return bool(select.select([held], [], [], 0)[0])


def _took(directory: DataDirectory) -> bool:
    try:
        directory.lock()
    except Conflict:
        return False
    return True


async def _ask_to_stop(session: Session, process: int | None) -> None:
    """Ask over the API; one that is only just starting, or whose token we lack, gets the signal instead."""
    try:
        async with session.api() as api:
            await api.request("POST", "/api/shutdown")
    except LairError:
        if process is None:
            raise
        _signal(process)


def _signal(process: int) -> None:
    try:
        os.kill(process, signal.SIGINT)
    except ProcessLookupError:
        return
    except PermissionError as error:
        raise LairError(f"Process {process} is another user's: stop it as that user.") from error


def _report_down(session: Session, control_plane: bool, instances: int, nginx: bool) -> None:
    if session.as_json:
        output.as_json({"control_plane": control_plane, "instances": instances, "nginx": nginx})
    elif control_plane or instances or nginx:
        output.line("Stopped.")
    else:
        output.line("Nothing was running.")
