"""Blocks of ports that nobody else has, other runs of the tests on this machine included."""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import socket
from collections.abc import Iterator

BLOCK = 100
"""Ports of a block: the first two are tried, for a public and an API port; from the tenth on they are for servers."""

BASES = range(20000, 30000, BLOCK)
"""First ports of all blocks."""


def claim_ports() -> tuple[int, int]:
    """Return the first of a block of ports below the ephemeral range that no other test has, and its open claim."""
    for base in random.sample(BASES, len(BASES)):
        claim = _claim(base)
        if claim is not None:
            return base, claim
    raise AssertionError("no free block of ports")


@contextlib.contextmanager
def claimed_stretch(number: int) -> Iterator[range]:
    """Give so many ports in a row that no other test has: blocks side by side."""
    blocks = -(-number // BLOCK)
    for start in random.sample(range(len(BASES) - blocks + 1), len(BASES) - blocks + 1):
        with contextlib.ExitStack() as stack:
            for base in BASES[start : start + blocks]:
                claim = _claim(base)
                if claim is None:
                    break
                stack.callback(os.close, claim)
            else:
                yield range(BASES[start], BASES[start] + number)
                return
    raise AssertionError(f"no {number} free ports in a row")


def _claim(base: int) -> int | None:
    """Return the open claim to a block, or None: somebody else has it."""
    claim = _open_claim(f"/tmp/lair-test-ports-{base}")
    try:
        fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for port in (base, base + 1):
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", port))
    except OSError:
        os.close(claim)
        return None
    return claim


def _open_claim(path: str) -> int:
    """Open a file to lock; another user's too, which the kernel refuses to whoever would create it."""
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
