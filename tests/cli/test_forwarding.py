"""What one process passes on to another arrives as it was sent."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from tests.ceryx.conftest import listening, running

from sourcelair.cli.system.forwarding import Forward
from sourcelair.cli.system.location import Location
from sourcelair.client.ceryx import CeryxClient, Route
from sourcelair.errors import NotFound

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    "source", ["www.example.com/docs/v1", "*.example.com/b%C3%BCcher", "[::1]/a", "$wildcard/a+b,c", "localhost"]
)
async def test_sources_keep_every_character(tmp_path: Path, source: str) -> None:
    """Slashes and escapes of a source are escaped once, by the client, and decoded once, by who answers."""
    async with running(tmp_path) as ceryx, listening(ceryx) as url:
        place = Location("ceryx")
        place.move(url)
        forward = Forward(cast(Any, None), lambda _: False, {"ceryx": place})
        client = CeryxClient("http://other.test", "admin", transport=httpx.ASGITransport(forward))
        try:
            revision = await client.put_route(Route(source=source, target="http://h:1"))
            assert (await client.get_route(source)).revision == revision
            assert [route.source for route in (await client.list_routes())[0]] == [source]
            await client.delete_route(source)
            with pytest.raises(NotFound):
                await client.get_route(source)
        finally:
            await client.close()
            await forward.close()
