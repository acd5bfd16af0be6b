"""The policy that is in effect for a server: what its spec says, then its owner, then the installation."""

from __future__ import annotations

from sourcelair.client.policy import Policy, SleepPolicy, WakePolicy
from sourcelair.servers.records import ServerRecord
from sourcelair.settings import Settings

MOST_KEPT = 1000
"""Different policies that are kept, so that thousands of servers share the few that there are."""


class Policies:
    """Makes the policy in effect.

    Args:
        settings: the installation's.
    """

    def __init__(self, settings: Settings) -> None:
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
                show_log=False,
            ),
        )
        self.owners: dict[str, Policy] = {}
        """What owners say for all of their servers."""
        self._kept: dict[str, Policy] = {}

    def applied(self, record: ServerRecord) -> ServerRecord:
        """Return the record with the policy that is in effect for it."""
        policy = record.spec.policy
        if (owners := self.owners.get(record.owner)) is not None:
            policy = policy.over(owners)
        policy = policy.over(self._usual)
        if len(self._kept) >= MOST_KEPT:
            self._kept.clear()
        return record.model_copy(update={"policy": self._kept.setdefault(policy.model_dump_json(), policy)})
