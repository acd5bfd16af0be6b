"""Where NGINX's files lie, so that its workers reach what they must and nobody else reaches anything.

As root, workers are another user. Sockets are opened by the master, so the control socket may lie in a folder that is
closed to them; bodies are written by the workers, and can't lie below a folder that they may not enter.
"""

from __future__ import annotations

import os
import pwd
import shutil
import stat
import tempfile
from pathlib import Path

from sourcelair.ceryx.nginx.render import Place
from sourcelair.errors import LairError
from sourcelair.settings import Settings

WORKER_USERS = ("www-data", "nginx", "nobody")
"""As root: the first of these that exists runs the workers."""

LONGEST_SOCKET = 100
"""Bytes of a Unix socket's path (the kernel takes 107)."""

OUTSIDE = (Path("/var/lib/sourcelair"), Path("/var/tmp"))  # noqa: S108 - only mkdtemp makes folders there
"""Where body files lie when the data directory is closed to the workers: on a disk, since bodies may be large."""


def worker_user() -> str | None:
    """Return the user that runs NGINX's workers; None when we are not root, and they run as we do."""
    if os.geteuid() != 0:
        return None
    for name in WORKER_USERS:
        try:
            return pwd.getpwnam(name).pw_name
        except KeyError:
            continue
    raise LairError("NGINX needs a user for its workers: none of www-data, nginx and nobody exists.")


def may_enter(directory: Path, user: str) -> bool:
    """Return whether a user may go through a folder and all that it lies in."""
    account = pwd.getpwnam(user)
    for folder in (directory, *directory.parents):
        info = folder.stat()
        if info.st_uid == account.pw_uid:
            allowed = info.st_mode & stat.S_IXUSR
        elif info.st_gid == account.pw_gid:
            allowed = info.st_mode & stat.S_IXGRP
        else:
            allowed = info.st_mode & stat.S_IXOTH
        if not allowed:
            return False
    return True


def control_directory(directory: Path) -> Path:
    """Return a folder for the control socket, which only we may enter."""
    inside = directory / "run"
    if len(str(inside / "control.sock").encode()) <= LONGEST_SOCKET:
        return inside
    base = Path(os.environ.get("XDG_RUNTIME_DIR") or "/run")
    if not os.access(base, os.W_OK):
        base = Path(tempfile.gettempdir())
    return Path(tempfile.mkdtemp(prefix="sourcelair-", dir=base))


def body_directory(directory: Path, user: str | None) -> Path:
    """Return a folder below which the workers can have body files; its parents let them through."""
    inside = directory / "bodies"
    if user is None or may_enter(directory, user):
        return inside
    for base in OUTSIDE:
        try:
            base.mkdir(mode=0o755, exist_ok=True)
            made = Path(tempfile.mkdtemp(prefix="bodies-", dir=base))
        except OSError:
            continue
        return made
    raise LairError(f"NGINX's workers ({user}) can't enter {directory}, and no other place for body files is writable.")


def make_place(settings: Settings, directory: Path, control: Path, bodies: Path) -> Place:
    """Make all folders with the modes that they need, and return where everything lies."""
    logs = settings.data_dir / "logs"
    for folder in (directory, directory / "logs", logs, control):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    control.chmod(0o700)
    bodies.mkdir(mode=0o711, parents=True, exist_ok=True)
    bodies.chmod(0o711)
    return Place(
        config=directory / "nginx.conf",
        pid_file=directory / "nginx.pid",
        control=control / "control.sock",
        bodies=bodies,
        error_log=(directory / "logs").resolve() / "error.log",
        access_log=logs / "access.log",
        user=worker_user(),
    )


def remove_outside(directory: Path, *folders: Path) -> None:
    """Remove those folders that were made outside of the engine's own directory."""
    for folder in folders:
        if directory not in folder.parents:
            shutil.rmtree(folder, ignore_errors=True)
