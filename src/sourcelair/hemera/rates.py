"""How many starts visits may cause a minute: from one address, of one owner's servers, and in all.

What is counted is starts, never requests: joining one that is under way costs nothing, and neither does visiting what
is awake. They are token buckets: after a quiet minute a minute's worth may come at once, then as many as the rate says.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from ipaddress import IPv6Address, ip_address

MOST_KNOWN = 10_000
"""Addresses, and owners, that are remembered: those that were seen last."""

ENOUGH = 1.0 - 1e-6
"""Tokens that count as one: time is no exact number."""


class Buckets:
    """Token buckets by name, all of one size. Only those that are not full are remembered for certain.

    Args:
        per_minute: tokens that come back a minute, and that a full bucket has.
        clock: monotonic seconds.
        most: buckets that are remembered; the one that was used longest ago is forgotten, and so full again.
    """

    def __init__(self, per_minute: float, clock: Callable[[], float], most: int = MOST_KNOWN) -> None:
        self._size = max(1.0, per_minute)
        self._per_second = per_minute / 60
        self._clock = clock
        self._most = most
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """The tokens that were left, and when, by name."""

    def __len__(self) -> int:
        return len(self._left)

    def wait(self, name: str) -> float:
        """Return the seconds until there is a token; 0 for now."""
        missing = ENOUGH - self._tokens(name)
        return missing / self._per_second if missing > 0 else 0.0

    def take(self, name: str) -> None:
        """Take a token. There need not be one: then the next comes later."""
        self._set(name, self._tokens(name) - 1)

    def give_back(self, name: str) -> None:
        """Put a token back."""
        self._set(name, min(self._size, self._tokens(name) + 1))

    def _tokens(self, name: str) -> float:
        known = self._left.get(name)
        if known is None:
            return self._size
        tokens, at = known
        return min(self._size, tokens + (self._clock() - at) * self._per_second)

    def _set(self, name: str, tokens: float) -> None:
        self._left[name] = (tokens, self._clock())
        self._left.move_to_end(name)
        while len(self._left) > self._most:
            self._left.popitem(last=False)


class Rates:
    """The rates of all three kinds. As a `turns.Rate` it is that of owners, and of all together.

    Args:
        in_all: starts a minute that visits may cause.
        per_owner: of those, of one owner's servers.
        per_address: of those, from one address.
        clock: monotonic seconds.
    """

    def __init__(
        self, in_all: float, per_owner: float, per_address: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._all = Buckets(in_all, clock, most=1)
        self._owners = Buckets(per_owner, clock)
        self.addresses = Buckets(per_address, clock)
        """By what `source_of` an address says."""

    def short_of(self, owner: str) -> str | None:
        """Return whose rate keeps this owner waiting right now: `all`, `owner`, or None."""
        return "all" if self._all.wait("") > 0 else "owner" if self._owners.wait(owner) > 0 else None

    def wait(self, owner: str) -> float:
        """Return the seconds until this owner's next start may be; 0 for now."""
        return max(self._all.wait(""), self._owners.wait(owner))

    def take(self, owner: str) -> None:
        """Count a start."""
        self._all.take("")
        self._owners.take(owner)

    def give_back(self, owner: str) -> None:
        """Count one less: nothing was started."""
        self._all.give_back("")
        self._owners.give_back(owner)


def source_of(address: str | None) -> str | None:
    """Return what the starts from an address are counted by; None where they are not.

    Everybody has a whole /64 of IPv6. A loopback address is this machine's user, or a proxy that is not in
    `trusted_proxies`: in both cases it stands for anybody.
    """
    if not address:
        return None
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(found, IPv6Address):
        if found.ipv4_mapped is None:
            return None if found.is_loopback else str(IPv6Address(int(found) >> 64 << 64)) + "/64"
        found = found.ipv4_mapped
    return None if found.is_loopback else str(found)
