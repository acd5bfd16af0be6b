"""How long cold starts took: kept for each server once it is awake, never on the way to that."""

from __future__ import annotations

from bisect import bisect_left
from statistics import median

from sourcelair.client.servers import Timing, WakeReport
from sourcelair.errors import NotFound
from sourcelair.servers.metrics import BOUNDS, COLD_STARTS
from sourcelair.servers.records import STARTS, ServerRecord, StartsRecord, decode, encode
from sourcelair.servers.worker import Worker
from sourcelair.store.base import Put, Store

KEPT = 20
"""Starts of which the usual time is the median."""

BUCKETS = (*(str(bound) for bound in BOUNDS), "inf")


def starts_key(record: ServerRecord) -> str:
    """Return the store's key of what is kept of a server's starts."""
    return f"{STARTS}{record.owner}/{record.project}"


def note_start(worker: Worker, timing: Timing) -> None:
    """Keep what a cold start took that has just ended, in the background."""
    if timing.published is None:
        return
    COLD_STARTS.observe(timing.published / 1000)
    worker.context.spawn(_keep(worker, timing.model_copy()), name=f"report of {worker.record.name}")


async def _keep(worker: Worker, timing: Timing) -> None:
    context = worker.context
    async with worker.reporting:  # a start is added to what the one before has left
        record = with_start(await read(context.store, worker.record), timing)
        try:
            await worker.keep(Put(starts_key(worker.record), encode(record)), usual(record))
        except NotFound:
            return


async def read(store: Store, record: ServerRecord) -> StartsRecord:
    """Return what is kept of a server's starts."""
    entry = await store.get(starts_key(record))
    return StartsRecord() if entry is None else decode(StartsRecord, entry)


def with_start(record: StartsRecord, timing: Timing) -> StartsRecord:
    """Return what is kept, with one more start."""
    counts = _counts(record)
    counts[bisect_left(BOUNDS, timing.published or 0.0)] += 1
    return record.model_copy(update={"last": [timing, *record.last][:KEPT], "histogram": counts})


def _counts(record: StartsRecord) -> list[int]:
    return [*record.histogram, *[0] * len(BUCKETS)][: len(BUCKETS)]


def usual(record: StartsRecord) -> float | None:
    """Return the median of the last starts, in seconds."""
    times = [timing.published for timing in record.last if timing.published is not None]
    return median(times) / 1000 if times else None


async def report(worker: Worker) -> WakeReport:
    """Return how long a server's cold starts took."""
    record = await read(worker.context.store, worker.record)
    steps: dict[str, float] = {}
    for name in Timing.model_fields:
        if known := [value for timing in record.last if (value := getattr(timing, name)) is not None]:
            steps[name] = median(known)
    counts = _counts(record)
    return WakeReport(
        starts=sum(counts),
        usual=steps.get("published"),
        breakdown=Timing(**steps),
        histogram=dict(zip(BUCKETS, counts, strict=True)),
        last=record.last,
    )
