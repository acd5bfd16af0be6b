"""What cold starts took: kept once they are over, beside the record, and gone with the server."""

from __future__ import annotations

import asyncio

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from tests.servers.world import Life, World, error_of

from sourcelair.client.servers import StartRequest, Timing, WakeReport
from sourcelair.errors import Forbidden, NotFound
from sourcelair.servers import reports
from sourcelair.servers.records import STARTS, StartsRecord
from sourcelair.telemetry import METRICS

pytestmark = pytest.mark.anyio


async def cycle(life: Life) -> None:
    await life.client.start("demo", "blog", StartRequest(), wait=5)
    await life.client.stop("demo", "blog", wait=5)


async def report_of(life: Life, starts: int) -> WakeReport:
    """Return the report once it has so many starts: they are kept in the background."""
    async with asyncio.timeout(5):
        while (report := await life.client.report("demo", "blog")).starts < starts:
            await asyncio.sleep(0.01)
    return report


async def test_cold_starts_are_counted(world: World) -> None:
    """By how long they took, the newest first; it outlives the control plane."""
    async with world.up() as life:
        await life.create()
        empty = await life.client.report("demo", "blog")
        assert (empty.starts, empty.usual, empty.last) == (0, None, [])
        for _ in range(3):
            await cycle(life)
        await report_of(life, 3)
    async with world.up() as life:
        report = await report_of(life, 3)
        assert report.starts == sum(report.histogram.values()) == len(report.last) == 3
        assert list(report.histogram) == ["10", "20", "50", "100", "200", "500", "1000", "2000", "5000", "10000",
                                          "20000", "60000", "inf"]  # fmt: skip
        times = [timing.published for timing in report.last]
        assert report.usual == sorted(time for time in times if time)[1] == report.breakdown.published
        assert report.breakdown.listening is not None and report.breakdown.thawed is None


async def test_what_is_usual_is_shown_by_the_next_start(life: Life) -> None:
    """In seconds; and no revision is spent on it, so whoever just read the server may write it."""
    await life.create()
    server = await life.client.start("demo", "blog", StartRequest(), wait=5)
    report = await report_of(life, 1)
    shown = await life.client.get("demo", "blog")
    assert report.usual is not None and shown.usual_start == report.usual / 1000
    assert shown.revision == server.revision
    await life.client.stop("demo", "blog", wait=5)
    worker = life.service.worker("demo", "blog")
    entry = await life.service.context.store.get(worker.record.key)
    assert entry is not None and f'"usual_start":{shown.usual_start}'.encode() in entry.value


async def test_it_is_forgotten_with_the_server(life: Life) -> None:
    await life.create()
    await cycle(life)
    await report_of(life, 1)
    await life.client.delete("demo", "blog", wait=5)
    assert (await life.service.context.store.list(STARTS)).entries == ()
    assert isinstance(await error_of(life.client.report("demo", "blog")), NotFound)
    await life.create()
    assert (await life.client.report("demo", "blog")).starts == 0


async def test_only_who_may_see_the_server_reads_it(life: Life) -> None:
    await life.create()
    assert (await life.as_("read-demo").report("demo", "blog")).starts == 0
    assert isinstance(await error_of(life.as_("owner-other").report("demo", "blog")), Forbidden)


@pytest.mark.parametrize(
    ("milliseconds", "bucket"),
    [(0.5, "10"), (10, "10"), (10.1, "20"), (60_000, "60000"), (60_000.1, "inf")],
)
def test_a_bound_belongs_to_its_bucket(milliseconds: float, bucket: str) -> None:
    record = reports.with_start(StartsRecord(), Timing(published=milliseconds))
    assert record.histogram[reports.BUCKETS.index(bucket)] == 1 == sum(record.histogram)


def test_the_last_ones_are_kept_and_the_rest_is_counted() -> None:
    record = StartsRecord()
    for number in range(1, 31):
        record = reports.with_start(record, Timing(published=number * 1000.0))
    assert [timing.published for timing in record.last[:2]] == [30_000, 29_000]
    assert len(record.last) == reports.KEPT and sum(record.histogram) == 30
    assert reports.usual(record) == 20.5


def sample(name: str, **labels: str) -> float:
    families = text_string_to_metric_families(generate_latest(METRICS).decode())
    found = [s.value for family in families for s in family.samples if s.name == name and s.labels == labels]
    assert len(found) == 1, name
    return found[0]


async def test_metrics_tell_how_many_are_in_which_state(life: Life) -> None:
    """And how long they were awake, in all; both while it lasts and afterwards."""
    before = sample("lair_cold_start_seconds_count")
    await life.create()
    await life.create("demo", "other")
    assert (sample("lair_servers", state="asleep"), sample("lair_awake_seconds_total")) == (2, 0)
    await life.client.start("demo", "blog", StartRequest(), wait=5)
    assert (sample("lair_servers", state="asleep"), sample("lair_servers", state="awake")) == (1, 1)
    while_awake = sample("lair_awake_seconds_total")
    assert while_awake > 0
    await life.client.stop("demo", "blog", wait=5)
    afterwards = sample("lair_awake_seconds_total")
    assert afterwards > while_awake and sample("lair_awake_seconds_total") == afterwards
    assert sample("lair_cold_start_seconds_count") == before + 1
    await life.client.delete("demo", "other", wait=5)
    assert (sample("lair_servers", state="asleep"), sample("lair_servers", state="awake")) == (1, 0)


async def test_metrics_know_what_was_there_before(world: World) -> None:
    async with world.up() as life:
        await life.create()
        await life.client.start("demo", "blog", StartRequest(), wait=5)
    async with world.up() as life:
        await life.until("awake")
        assert sample("lair_servers", state="awake") == 1
        assert sample("lair_awake_seconds_total") > 0
