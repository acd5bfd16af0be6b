"""One real installation for each module, and a site for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from tests.system.lair import Lair, running_lair
from tests.system.site import Site, site_of


@pytest.fixture(scope="module")
def lair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lair]:
    """A running installation, shared by the tests of a module. Its second token is the one of its services."""
    with running_lair(tmp_path_factory.mktemp("lair")) as running:
        yield running


@pytest.fixture
async def site(lair: Lair) -> AsyncIterator[Site]:
    """The module's installation, as its operator and its visitors see it."""
    async with site_of(lair) as found:
        yield found
