"""Fixtures that every test may use."""

from __future__ import annotations

import resource
import signal

import pytest


def pytest_configure() -> None:
    """Give the tests what a terminal would.

    As many open files as there may be: some tests are two thousand visitors at once. And a Ctrl-C that counts: a shell
    starts what is in the background with it ignored, and all that it starts inherits that.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def anyio_backend() -> str:
    """The services run on asyncio only, so the tests do too."""
    return "asyncio"
