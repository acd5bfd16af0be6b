"""Writes whose answer never came: whether they were done shows later, and until then nobody counts their routes.

etcd may break off at any moment, and who asked may go away. The number of routes would be wrong for good otherwise.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from sourcelair.errors import LairError
from sourcelair.store.base import Compare, CompareFailed, Store


@dataclass(frozen=True, slots=True)
class Sign:
    """By what a write shows that it was done: this key is there then, or is not, and it was the other way before.

    `growth` is what the write adds to the number of routes.
    """

    key: str
    there: bool
    growth: int


class Doubts:
    """What is not known yet.

    Args:
        store: of the routes.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._signs = list[Sign]()

    @contextlib.contextmanager
    def until_answered(self, sign: Sign | None) -> Iterator[None]:
        """Doubt a write that ends without a clear answer in this block; one without a sign changes no number."""
        try:
            yield
        except CompareFailed:
            raise
        except BaseException:
            if sign is not None:
                self._signs.append(sign)
            raise

    async def settle(self) -> int:
        """Return what the number of routes has grown by since, as far as the store says what was done.

        It is asked before anything else is written here, so that the sign is not another write's.
        """
        growth = 0
        while self._signs:
            sign = self._signs.pop()  # whoever comes meanwhile must not count it, too
            try:
                is_there = await self._is_there(sign.key)
            except BaseException as error:
                self._signs.append(sign)
                if isinstance(error, LairError):
                    break
                raise
            if is_there == sign.there:
                growth += sign.growth
        return growth

    async def _is_there(self, key: str) -> bool:
        """Ask by a condition, which has its turn after the write if that is still on its way; a read need not have."""
        try:
            await self._store.transact([Compare(key, 0)], [])
        except CompareFailed:
            return True
        return False
