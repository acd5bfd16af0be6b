"""What Hemera counts."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

from sourcelair.telemetry import METRICS

WAKES = Counter("lair_wakes", "Wakes by outcome.", ["outcome"], registry=METRICS)
SLEEPS = Counter("lair_sleeps", "Idle stops that were asked for, by outcome.", ["outcome"], registry=METRICS)
BROKEN_TEMPLATES = Gauge(
    "lair_page_templates_broken", "Templates of pages_dir that could not be used when last tried.", registry=METRICS
)
