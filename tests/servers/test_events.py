"""The stream of changes."""

from __future__ import annotations

import pytest
from tests.servers.world import Life

from sourcelair.auth import Identity
from sourcelair.servers import events

pytestmark = pytest.mark.anyio


async def test_an_event_tells_the_policy_that_is_in_effect(life: Life) -> None:
    """As every answer does, though it is not stored: what follows the stream must not take it for none."""
    stream = await events.follow(life.service.context, Identity(kind="service"), None)
    created = await life.create(spec={"wake": {"show_log": True}})
    event = await anext(stream)
    assert event.server is not None
    assert event.server.policy == created.policy
    assert event.server.policy.wake.show_log
    assert event.server.policy.sleep.stop_after == life.world.settings.idle_timeout
    await stream.aclose()
