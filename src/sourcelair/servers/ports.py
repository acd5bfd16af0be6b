"""Ports: given out round robin, and again only when nobody can reach their last user by them any more.

A port's record is stored with the instance's own, and outlives it: a crash must not empty the quarantine. It is
deleted once every registered node has acknowledged the withdrawal with nothing in flight, and the proxies' idle
connections are gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket

from sourcelair.client.ceryx import CeryxClient
from sourcelair.errors import LairError, Unavailable
from sourcelair.servers.records import PORTS, PortRecord, decode
from sourcelair.store.base import Store
from sourcelair.telemetry import get_logger

_log = get_logger(__name__)

WAIT = 20.0
"""Seconds of one question to Ceryx."""

FIRST_PAUSE, LONGEST_PAUSE = 0.05, 5.0
"""Seconds until Ceryx is asked again where it did not answer."""


def port_key(port: int) -> str:
    """Return the store's key of a port."""
    return f"{PORTS}{port}"


class Ports:
    """The ports of this machine's servers.

    Args:
        store: where the records lie.
        ceryx: is asked for proofs.
        first: the first port of the range.
        last: the last one.
        cooldown: seconds that a port rests at the end.
    """

    def __init__(self, store: Store, ceryx: CeryxClient, first: int, last: int, cooldown: float) -> None:
        self._store = store
        self._ceryx = ceryx
        self._first, self._last = first, last
        self._cooldown = cooldown
        self._next = random.randint(first, last)  # noqa: S311 - spreads, and hides nothing
        self._taken: dict[int, PortRecord] = {}
        self._freed = asyncio.Event()

    async def load(self) -> dict[int, PortRecord]:
        """Read all records, and return them by port."""
        page = await self._store.list(PORTS)
        for entry in page.entries:
            self._taken[int(entry.key.removeprefix(PORTS))] = decode(PortRecord, entry)
        return dict(self._taken)

    def take(self, instance: str) -> tuple[int, PortRecord]:
        """Return a free port and the record that the caller stores together with the instance's.

        Raises:
            Unavailable: there is none.
        """
        for _ in range(self._last - self._first + 1):
            port = self._next
            self._next = port + 1 if port < self._last else self._first
            if port not in self._taken and _is_free(port):
                record = PortRecord(instance=instance)
                self._taken[port] = record
                return port, record
        resting = sum(record.withdrawn is not None for record in self._taken.values())
        raise Unavailable(
            f"No free port in {self._first}-{self._last}: {len(self._taken)} are given out, {resting} of them wait "
            "until every proxy node has confirmed that it sends nothing there any more; `lair doctor` shows silent "
            "nodes.",
            retry_after=5,
        )

    async def take_when_free(self, instance: str, timeout: float) -> tuple[int, PortRecord]:
        """Return what `take` does, as soon as there is a free port.

        Raises:
            Unavailable: there was none for `timeout` seconds.
        """
        deadline = asyncio.get_running_loop().time() + timeout
        while True:
            freed = self._freed
            try:
                return self.take(instance)
            except Unavailable as error:
                try:
                    async with asyncio.timeout_at(deadline):
                        await freed.wait()
                except TimeoutError:
                    raise error from None

    def give_back(self, port: int) -> None:
        """Make a port free: its record is not stored (any more)."""
        self._taken.pop(port, None)
        freed, self._freed = self._freed, asyncio.Event()
        freed.set()

    def withdrawn(self, port: int, record: PortRecord) -> None:
        """Take in that the record was stored with a withdrawal."""
        self._taken[port] = record

    async def release(self, port: int, record: PortRecord) -> None:
        """Wait until nobody can reach the instance by this port, then make it free. The instance is gone already."""
        if record.withdrawn is None:
            raise ValueError(f"port {port} of {record.instance} was never withdrawn")
        pause = FIRST_PAUSE
        while True:
            try:
                state = await self._ceryx.withdrawal(record.instance, record.withdrawn, until="drained", wait=WAIT)
                if state.drained:
                    break
                pause = FIRST_PAUSE
            except LairError:
                pause = min(pause * 2, LONGEST_PAUSE)
            await asyncio.sleep(pause)
        await asyncio.sleep(self._cooldown)
        while True:
            try:
                await self._store.delete(port_key(port))
                break
            except LairError:
                await asyncio.sleep(LONGEST_PAUSE)
        self.give_back(port)


def _is_free(port: int) -> bool:
    """Return whether nobody listens on this port, on any address."""
    for family, address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
        with contextlib.ExitStack() as stack:
            try:
                probe = stack.enter_context(socket.socket(family))
            except OSError:
                continue  # this machine has no IPv6
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                if family == socket.AF_INET6:
                    probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                probe.bind((address, port))
            except OSError as error:
                if family == socket.AF_INET or error.errno in {98, 13}:
                    return False
    return True
