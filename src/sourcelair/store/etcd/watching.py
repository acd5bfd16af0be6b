"""The watch that loses nothing: what breaks off goes on after the last *event* that came, on whatever member answers.

Never after the revision of a header that came with events: etcd may send a batch that ends at 1001 under one of 5001.
While nothing happens it says now and then that all up to a revision was given, so that history may be forgotten up to
there. And it is asked for one revision more than is wanted: it gives a watch that begins at the very revision up to
which history is gone, though what was deleted there is gone too. What is caught up with comes in fragments: without
them up to a thousand revisions are one answer, of whatever size.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable
from itertools import groupby

from sourcelair.errors import HistoryCompacted, LairError
from sourcelair.store.base import Change
from sourcelair.store.etcd import rpc_pb2 as rpc
from sourcelair.store.etcd.cluster import FIRST_PAUSE, LONGEST_PAUSE, WATCH, Cluster, Interrupted
from sourcelair.store.etcd.keys import Keys
from sourcelair.telemetry import get_logger

_log = get_logger(__name__)


async def watch(cluster: Cluster, keys: Keys, prefix: str, from_revision: int) -> AsyncGenerator[Change, None]:
    """Give every change from a revision on, for ever; see `Store.watch`.

    Raises:
        HistoryCompacted: changes since then are no longer kept.
    """
    first, end = keys.range(prefix)
    wanted, pause, broken = from_revision, FIRST_PAUSE, False
    while True:
        request = rpc.WatchRequest(
            create_request=rpc.WatchCreateRequest(
                key=first,
                range_end=end,
                start_revision=max(1, wanted - 1),
                prev_kv=True,
                progress_notify=True,
                fragment=True,
            )
        )
        answers, rest = cluster.stream(WATCH, request), list[rpc.Event]()
        try:
            async for answer in answers:
                if answer.canceled:
                    cluster.forget_token()  # of one that has run out this tells in words only
                    raise _cancelled(answer)
                if broken and answer.created and answer.header.revision + 1 < wanted:
                    raise _restored(answer)
                if broken:
                    _log.info("watch_goes_on", prefix=prefix, revision=wanted)
                pause, broken = FIRST_PAUSE, False
                events, rest = _whole([*rest, *answer.events], is_fragment=answer.fragment)
                for change in _changes(keys, events):
                    if change.revision >= wanted:
                        wanted = change.revision + 1
                        yield change
                if not answer.events and not answer.created:  # all until then was given
                    wanted = max(wanted, answer.header.revision + 1)
        except HistoryCompacted:
            raise
        except (Interrupted, LairError) as error:
            if not broken:
                _log.warning("watch_broken", prefix=prefix, revision=wanted, error=str(error))
            broken = True
        finally:
            await answers.aclose()
        await asyncio.sleep(pause)
        pause = min(pause * 2, LONGEST_PAUSE)


def _restored(answer: rpc.WatchResponse) -> HistoryCompacted:
    """Return what to say where etcd is not as far any more as it was: it was restored from an older backup.

    Or this member is behind the others, which costs its reader a list.
    """
    return HistoryCompacted(f"etcd is at revision {answer.header.revision}, and was beyond it: list again.")


def _cancelled(answer: rpc.WatchResponse) -> Exception:
    if answer.compact_revision:
        return HistoryCompacted(
            f"History up to revision {answer.compact_revision} is no longer kept by etcd: list again."
        )
    return Interrupted(answer.cancel_reason or "etcd cancelled it")


def _whole(events: list[rpc.Event], *, is_fragment: bool) -> tuple[list[rpc.Event], list[rpc.Event]]:
    """Return the events of revisions that are whole, and those of one of which more may come in the next fragment."""
    end = len(events)
    while is_fragment and end and events[end - 1].kv.mod_revision == events[-1].kv.mod_revision:
        end -= 1
    return events[:end], events[end:]


def _changes(keys: Keys, events: Iterable[rpc.Event]) -> Iterable[Change]:
    """Give events by revision, each in the order of its keys."""
    for revision, some in groupby(keys.events(events), key=lambda event: event.revision):
        yield Change(revision, tuple(sorted(some, key=lambda event: event.key)))
