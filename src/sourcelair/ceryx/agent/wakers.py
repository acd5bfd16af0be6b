"""The wakers that routes name: whose address has to be looked up, and what NGINX has yet to be told of it.

Their look-ups have threads of their own and hold nothing up: a route is applied while its waker's address is still
unknown, and NGINX learns the address once there is one. An address that was found stays until there is another.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from urllib.parse import urlsplit

from sourcelair.ceryx.addresses import literal, waker_name
from sourcelair.ceryx.agent.resolve import Resolver
from sourcelair.ceryx.table import Place


class Wakers:
    """All wakers in use by one node's routes.

    Args:
        resolver: for these names alone.
    """

    def __init__(self, resolver: Resolver) -> None:
        self.on_change: Callable[[], None] = lambda: None
        """Called when a place has become known, or is another one."""
        self._resolver = resolver
        self._uses: Counter[str] = Counter()
        self._names: dict[str, str] = {}
        """The name that is looked up for a URL, for those that have one."""
        self._urls: dict[str, set[str]] = {}
        """The URLs for which a name is looked up."""
        self._moved: dict[str, str | None] = {}
        """Where a waker really is, by the URL that routes name."""
        self._places: dict[str, Place] = {}
        self._fresh: dict[str, None] = {}
        resolver.on_answer = self._answered

    def replace(self, before: str | None, after: str | None) -> None:
        """A route names another waker: by URL, None for none."""
        if before == after:
            return
        if after is not None:
            self._uses[after] += 1
            if self._uses[after] == 1:
                self._begin(after)
        if before is not None:
            self._uses[before] -= 1
            if not self._uses[before]:
                del self._uses[before]
                self._end(before)

    def move(self, url: str, to: str | None) -> None:
        """Say that the waker that routes know by one URL answers at the host and port of another; None: nowhere."""
        if self._moved.get(url, url) == to:
            return
        if url in self._uses:
            self._end(url)
        self._moved[url] = to
        if url in self._uses:
            self._begin(url)

    def _begin(self, url: str) -> None:
        real = self._moved.get(url, url)
        if real is None:
            return
        name = waker_name(real)
        if name is not None:
            self._names[url] = name
            self._urls.setdefault(name, set()).add(url)
            self._resolver.use(name, 0)
            self._answered(name)
        elif real != url and (address := literal(urlsplit(real).hostname or "")):
            self._place(url, address)

    def _end(self, url: str) -> None:
        self._places.pop(url, None)
        self._fresh.pop(url, None)
        name = self._names.pop(url, None)
        if name is None:
            return
        self._urls[name].discard(url)
        if not self._urls[name]:
            del self._urls[name]
            self._resolver.drop(name)

    def _answered(self, name: str) -> None:
        answer = self._resolver.answers.get(name)
        if answer is not None and answer.address is not None:
            for url in self._urls.get(name, ()):
                self._place(url, answer.address)

    def _place(self, url: str, address: str) -> None:
        place = (address, urlsplit(self._moved.get(url) or url).port or 80)
        if self._places.get(url) != place:
            self._places[url] = place
            self._fresh[url] = None
            self.on_change()

    def take_all(self) -> dict[str, Place]:
        """Return every known place by URL, for an NGINX that may know none."""
        self._fresh.clear()
        return dict(self._places)

    def take_fresh(self) -> dict[str, Place]:
        """Return the places by URL that NGINX was not told yet."""
        fresh = {url: self._places[url] for url in self._fresh}
        self._fresh.clear()
        return fresh
