"""The protocol keeps its promises in whatever order its actors move, pause and crash."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings
from tests.protocol.sleep_machine import SleepMachine

QUICK = settings(max_examples=400, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck))
DEEP = settings(QUICK, max_examples=5000, stateful_step_count=60)


@pytest.mark.timeout(1800)
class TestProtocol(SleepMachine.TestCase):  # type: ignore[valid-type, misc]
    """No promise is broken, and in the end every server answers again."""

    settings = DEEP if settings.get_current_profile_name() == "deep" else QUICK
