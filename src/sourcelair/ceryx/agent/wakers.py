"""The wakers that routes name: whose address has to be looked up, and what NGINX has yet to be told of it.

Their look-ups have threads of their own and hold nothing up: a route is applied while its waker's address is still
unknown, and NGINX learns the address once there is one. An address that was found stays until there is another.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from sourcelair.ceryx.addresses import waker_name
from sourcelair.ceryx.agent.resolve import Resolver


class Wakers:
    """All wakers in use by one node's routes.

    Args:
        resolver: for these names alone.
    """

    def __init__(self, resolver: Resolver) -> None:
        self.on_change: Callable[[], None] = lambda: None
        """Called when an address has become known, or is another one."""
        self._resolver = resolver
        self._uses: Counter[str] = Counter()
        self._urls: dict[str, set[str]] = {}
        self._addresses: dict[str, str] = {}
        self._fresh: dict[str, None] = {}
        resolver.on_answer = self._answered

    def replace(self, before: str | None, after: str | None) -> None:
        """A route names another waker: by URL, None for none."""
        if before == after:
            return
        if after is not None:
            self._use(after)
        if before is not None:
            self._drop(before)

    def _use(self, url: str) -> None:
        self._uses[url] += 1
        name = waker_name(url) if self._uses[url] == 1 else None
        if name is not None:
            self._urls.setdefault(name, set()).add(url)
            self._resolver.use(name, 0)
            self._answered(name)

    def _drop(self, url: str) -> None:
        self._uses[url] -= 1
        if self._uses[url]:
            return
        del self._uses[url]
        self._addresses.pop(url, None)
        self._fresh.pop(url, None)
        name = waker_name(url)
        if name is not None:
            urls = self._urls[name]
            urls.discard(url)
            if not urls:
                del self._urls[name]
                self._resolver.drop(name)

    def _answered(self, name: str) -> None:
        answer = self._resolver.answers.get(name)
        if answer is None or answer.address is None:
            return
        for url in self._urls.get(name, ()):
            if self._addresses.get(url) != answer.address:
                self._addresses[url] = answer.address
                self._fresh[url] = None
        if self._fresh:
            self.on_change()

    def take_all(self) -> dict[str, str]:
        """Return every known address by URL, for an NGINX that may know none."""
        self._fresh.clear()
        return dict(self._addresses)

    def take_fresh(self) -> dict[str, str]:
        """Return the addresses by URL that NGINX was not told yet."""
        fresh = {url: self._addresses[url] for url in self._fresh}
        self._fresh.clear()
        return fresh
