"""The policy that is in effect for a server: what its spec says, then its owner, then the installation."""

from __future__ import annotations

from collections.abc import Mapping

from sourcelair.client.ceryx import RouteSettings
from sourcelair.client.policy import Policy, SleepPolicy, WakePolicy
from sourcelair.client.sharing import Shared, as_if_all_set
from sourcelair.servers.drivers.base import Driver
from sourcelair.servers.records import ServerRecord
from sourcelair.settings import Settings

MOST_KEPT = 1000
"""Different policies that are kept, so that thousands of servers share the few that there are."""


class Policies:
    """Makes the policy in effect.

    Args:
        settings: the installation's.
        drivers: by name; what they can't do is not in effect.
    """

    def __init__(self, settings: Settings, drivers: Mapping[str, Driver]) -> None:
        self._drivers = drivers
        self._usual = Policy(
            sleep=SleepPolicy(
                stop_after=settings.idle_timeout,
                min_awake=0.0,
                streams="always",
                warn_before=settings.warn_before,
                drain_timeout=settings.drain_timeout,
                stop_grace=settings.stop_grace,
            ),
            wake=WakePolicy(
                patience=settings.patience,
                timeout=settings.wake_timeout,
                tries=settings.start_tries,
            ),
        )
        self.owners: dict[str, Policy] = {}
        """What owners say for all of their servers."""
        self._kept: dict[str, Policy] = {}
        self._shared = Shared()

    def applied(self, record: ServerRecord) -> ServerRecord:
        """Return the record with the policy that is in effect for it."""
        policy = record.spec.policy
        if (owners := self.owners.get(record.owner)) is not None:
            policy = policy.over(owners)
        policy = policy.over(self._usual)
        driver = self._drivers.get(record.spec.driver)
        if driver is not None and "pause" not in driver.capabilities:  # an owner's default, or a machine that changed
            policy = policy.model_copy(update={"sleep": policy.sleep.model_copy(update={"doze_after": None})})
        if len(self._kept) >= MOST_KEPT:
            self._kept.clear()
        applied = record.model_copy(update={"policy": self._kept.setdefault(policy.model_dump_json(), policy)})
        self._shared.in_spec(applied.spec)
        as_if_all_set(applied)
        return applied

    def routed(self, record: ServerRecord) -> RouteSettings:
        """Return the settings of its routes: what is in effect for it and not for the whole installation anyway."""
        wake, usual = record.policy.wake, self._usual.wake
        streams = record.policy.sleep.streams
        return RouteSettings(
            patience=wake.patience if wake.patience != usual.patience else None,
            wake_timeout=wake.timeout if wake.timeout != usual.timeout else None,
            quiet=wake.quiet or None,
            streams=streams if streams != self._usual.sleep.streams else None,
        )
