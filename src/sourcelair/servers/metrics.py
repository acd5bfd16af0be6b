"""What the SourceLair API counts. Times of starts come from their `Timing`, from when they were asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prometheus_client import Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from sourcelair.telemetry import METRICS

BOUNDS = (10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 60_000)
"""Upper bounds of a cold start's bucket, in milliseconds; one more bucket has what took longer."""

COLD_STARTS = Histogram(
    "lair_cold_start_seconds",
    "Time from when a start was asked for until its route was published.",
    buckets=[bound / 1000 for bound in BOUNDS],
    registry=METRICS,
)
THAWS = Histogram(
    "lair_thaw_seconds",
    "Time from when a dozing server was asked for until its instance ran again.",
    buckets=[0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 5],
    registry=METRICS,
)


class ServersCollector(Collector):
    """Reads, whenever somebody asks for metrics, what is counted anyway.

    Args:
        states: returns how many servers are in each state.
        awake: returns the seconds that servers were awake.
    """

    def __init__(self, states: Callable[[], Mapping[str, int]], awake: Callable[[], float]) -> None:
        self._states = states
        self._awake = awake

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        """Give the metrics as they are now."""
        servers = GaugeMetricFamily("lair_servers", "Servers by state.", labels=["state"])
        for state, count in self._states().items():
            servers.add_metric([state], count)
        yield servers
        yield CounterMetricFamily(
            "lair_awake_seconds", "Time that servers were awake, all of them together.", value=self._awake()
        )
