"""Blocks of ports that nobody else has, other runs of the tests on this machine included."""

from __future__ import annotations

import fcntl
import os
import random
import socket

BLOCK = 100
"""Ports of a block: the first two are tried, for a public and an API port; from the tenth on they are for servers."""


def claim_ports() -> tuple[int, int]:
    """Return the first of a block of ports below the ephemeral range that no other test has, and its open claim."""
    for base in random.sample(range(20000, 30000, BLOCK), 100):
        claim = _open_claim(f"/tmp/lair-test-ports-{base}")
        try:
            fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for port in (base, base + 1):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
        except OSError:
            os.close(claim)
            continue
        return base, claim
    raise AssertionError("no free block of ports")


def _open_claim(path: str) -> int:
    """Open a file to lock; another user's too, which the kernel refuses to whoever would create it."""
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
