"""Memory pressure: what dozes is stopped before the memory is scarce, the one that has dozed longest first."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import TypeVar

from sourcelair.servers import machine
from sourcelair.servers.asking import until_gone
from sourcelair.servers.memory import Memory
from sourcelair.servers.records import ServerRecord
from sourcelair.servers.worker import Worker
from sourcelair.telemetry import get_logger

_log = get_logger(__name__)

LOOK_EVERY = 1.0
"""Seconds between two readings, while anything dozes."""

LONGEST_STOP = 60.0
"""Seconds for which the next one waits for the one before to be gone."""

CAUSE = "memory pressure"

K = TypeVar("K")


def choose(memory: Memory | None, reserve: float, dozing: Iterable[tuple[float, K]]) -> K | None:
    """Return which server is to be stopped now; None: none.

    Args:
        memory: as it was read; None: nobody knows.
        reserve: the part of the memory that is to stay available.
        dozing: since when each server dozes, and what names it.
    """
    if memory is None or memory.free >= reserve:
        return None
    longest = min(dozing, key=lambda one: one[0], default=None)
    return None if longest is None else longest[1]


class Pressure:
    """Watches the memory for as long as anything dozes.

    Args:
        reserve: the part of the memory that is to stay available.
        read: reads it.
        clock: Unix seconds.
    """

    def __init__(self, reserve: float, read: Callable[[], Memory | None], clock: Callable[[], float]) -> None:
        self._reserve = reserve
        self._read = read
        self._clock = clock
        self._dozing: dict[str, Worker] = {}
        self._some = asyncio.Event()

    def look(self, worker: Worker) -> None:
        """Take notice of a server that changed."""
        if worker.record.state == "dozing" and not worker.removed:
            self._dozing[worker.record.name] = worker
            self._some.set()
        else:
            self._dozing.pop(worker.record.name, None)

    async def run(self) -> None:
        """Stop what dozes while the memory is scarce, for ever: one at a time, and then it is read again."""
        while True:
            if not self._dozing:
                self._some.clear()
                await self._some.wait()
            dozing = [(worker.record.changed_at, worker) for worker in self._dozing.values() if not worker.stop_asked]
            memory = self._read()
            worker = choose(memory, self._reserve, dozing)
            if worker is None or memory is None:
                await asyncio.sleep(LOOK_EVERY)
            else:
                await self._stop(worker, memory)

    async def _stop(self, worker: Worker, memory: Memory) -> None:
        instance = worker.record.instance_id
        if instance is None:
            return
        _log.warning("memory_pressure", server=worker.record.name, free=round(memory.free, 3))

        def end(record: ServerRecord) -> ServerRecord:
            if record.state != "dozing":  # somebody came meanwhile
                return record
            return machine.want_ended(record, instance, CAUSE, self._clock(), actor="memory")

        try:
            await worker.update(end)
            if worker.stop_asked:
                await until_gone(worker, instance, LONGEST_STOP)
        except Exception:  # the others are still to be looked at
            _log.exception("not_stopped", server=worker.record.name)
            await asyncio.sleep(LOOK_EVERY)
