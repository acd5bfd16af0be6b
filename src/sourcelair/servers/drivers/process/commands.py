"""A spec's command: what can be refused before it runs, and where its program is.

Paths are looked at with `os.path`: pathlib raises for what can't be looked at, and on PATH that is no error.
"""

# ruff: noqa: PTH110, PTH112, PTH113

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from sourcelair.client.servers import Spec
from sourcelair.errors import InvalidInput
from sourcelair.servers.drivers.base import StartFailed

MAX_STRING = 100_000
"""Bytes of one argument or variable: the kernel takes 128 KiB (execve(2), MAX_ARG_STRLEN)."""

MAX_TOTAL = 1_000_000
"""Bytes of all arguments and variables together: half of what the kernel takes with the usual stack."""

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def check_command(spec: Spec) -> None:
    """Refuse a spec that can never run as a process.

    Raises:
        InvalidInput: with what to change.
    """
    if not spec.command or not spec.command[0]:
        raise InvalidInput("spec.command: it is empty; say what to run, such as python3 -m http.server {port}")
    if spec.directory is None:
        raise InvalidInput("spec.directory: it is missing; say in which directory the command runs")
    for name in spec.env:
        if not _VARIABLE.fullmatch(name):
            raise InvalidInput(f"spec.env: {name[:80]!r} is not a name that a variable can have")
    strings = {"command": spec.command, "directory": [spec.directory], "env": [*spec.env, *spec.env.values()]}
    for where, values in strings.items():
        if any("\0" in value for value in values):
            raise InvalidInput(f"spec.{where}: a NUL character can't be part of it")
        try:
            longest = max((len(os.fsencode(value)) for value in values), default=0)
        except UnicodeEncodeError:
            raise InvalidInput(f"spec.{where}: it is not valid text") from None
        if longest > MAX_STRING:
            raise InvalidInput(f"spec.{where}: one value is {longest} bytes long; {MAX_STRING} are possible")
    if not spec.directory.startswith("/"):
        raise InvalidInput(f"spec.directory: {spec.directory[:80]!r} is relative; write the whole path, from / on")
    total = sum(len(os.fsencode(value)) for values in strings.values() for value in values)
    if total > MAX_TOTAL:
        raise InvalidInput(f"spec: command and env are {total} bytes together; {MAX_TOTAL} are possible")


def check_directory(directory: str | None) -> Path:
    """Return the working directory.

    Raises:
        StartFailed: it is gone, or can't be entered.
    """
    path = Path(directory or "/")
    if not os.path.isdir(path):
        raise StartFailed(f"its directory {directory} {_why_not(path, 'is not a directory', 'does not exist')}")
    if not os.access(path, os.X_OK):
        raise StartFailed(f"its directory {directory} can't be entered: permission denied")
    return path


def _why_not(path: Path, other: str, missing: str) -> str:
    """Return what is wrong with a path: it is something else, it is missing, or it can't be looked at."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return missing
    except OSError as error:
        return f"can't be looked at: {os.strerror(error.errno or 0).lower()}"
    return other


def find_program(name: str, directory: Path, env: Mapping[str, str]) -> str:
    """Return the path of a command's program, as a shell in that directory with that environment would find it.

    Raises:
        StartFailed: there is none, or it can't be run.
    """
    if "/" in name:
        path = directory / name
        if not os.path.exists(path):
            why = _why_not(path, "", "")
            raise StartFailed(f"program not found: {name}" + (f": it {why}" if why else ""))
        if os.path.isdir(path) or not os.access(path, os.X_OK):
            raise StartFailed(f"program can't be run: {name} is not an executable file")
        return str(path)
    blocked = None
    for entry in env.get("PATH", os.defpath).split(":"):
        path = directory / entry / name
        if os.path.isfile(path):
            if os.access(path, os.X_OK):
                return str(path)
            blocked = blocked or path
    if blocked is not None:
        raise StartFailed(f"program can't be run: {blocked} is not an executable file")
    hint = f"; there is one in its directory: write ./{name}" if os.path.isfile(directory / name) else ""
    if name == "python" and shutil.which("python3", path=env.get("PATH", os.defpath)):
        hint = "; python3 is"  # Debian has no other
    raise StartFailed(f"program not found: {name} is not on PATH{hint}")


def with_port(command: Sequence[str], port: int) -> list[str]:
    """Return the command with `{port}` replaced in its arguments, and nothing else."""
    return [part.replace("{port}", str(port)) for part in command]
