"""Fixtures that every test may use."""

from __future__ import annotations

import resource
import signal
from pathlib import Path

import pytest

HERE = Path(__file__).parent

ALONE = {"system", "chaos"}
"""Packages whose tests each need a good part of the machine: never two of them at once."""


def pytest_configure() -> None:
    """Give the tests what a terminal would.

    As many open files as there may be: some tests are two thousand visitors at once. And a Ctrl-C that counts: a shell
    starts what is in the background with it ignored, and all that it starts inherits that.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Say which tests go to the same process where there are several: a package's, which share what they set up."""
    for item in items:
        package = item.path.relative_to(HERE).parent
        group = "alone" if package.parts[:1] and package.parts[0] in ALONE else str(package)
        item.add_marker(pytest.mark.xdist_group(group))


@pytest.fixture
def anyio_backend() -> str:
    """The services run on asyncio only, so the tests do too."""
    return "asyncio"
