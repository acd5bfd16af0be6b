"""`pytest tests/protocol --hypothesis-profile=deep` explores for minutes instead of seconds."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("deep", settings())
