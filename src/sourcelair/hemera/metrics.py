"""What Hemera counts."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

from sourcelair.telemetry import METRICS

WAKES = Counter("lair_wakes", "Wakes by outcome.", ["outcome"], registry=METRICS)
WAKE_QUEUE = Gauge("lair_wake_queue", "Wakes that wait for their turn.", registry=METRICS)
RATE_LIMITED = Counter(
    "lair_wakes_rate_limited",
    "Wakes that were refused (address), or had to wait (owner, all), because of too many starts a minute.",
    ["rate"],
    registry=METRICS,
)
TIME_TO_ANSWER = Histogram(
    "lair_time_to_answer",
    "Seconds from when a wake was asked for until its server was ready.",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
    registry=METRICS,
)
SLEEPS = Counter(
    "lair_sleeps", "Idle stops that were asked for, by how and outcome.", ["mode", "outcome"], registry=METRICS
)
BROKEN_TEMPLATES = Gauge(
    "lair_page_templates_broken", "Templates of pages_dir that could not be used when last tried.", registry=METRICS
)
