"""What is measured, by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from bench.report import Report
from bench.scenarios.change import Change
from bench.scenarios.etcd import EtcdStore
from bench.scenarios.hot import Hot
from bench.scenarios.million import Million
from bench.scenarios.rest import Rest
from bench.scenarios.restart import Restart
from bench.scenarios.wake import Wake


class Scenario(Protocol):
    """One subject of the benchmark."""

    @property
    def programs(self) -> Sequence[str]:
        """What it measures against, see `bench/install.py`."""
        ...

    def measure(self, *, short: bool, check: bool) -> Report:
        """Measure it, and return what was found.

        Args:
            short: to see that it runs; the figures mean nothing.
            check: only what the regression check needs, with promises as ratios and generous bounds.
        """
        ...


SCENARIOS: dict[str, Scenario] = {
    "hot": Hot(),
    "change": Change(),
    "wake": Wake(),
    "rest": Rest(),
    "restart": Restart(),
    "etcd": EtcdStore(),
    "million": Million(),
}
