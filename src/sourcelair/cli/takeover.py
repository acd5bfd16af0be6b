"""Taking over routes of another Ceryx: deciding what becomes of each, and writing those that are to be written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from sourcelair.client.ceryx import Route, RouteWrite, StoredRoute
from sourcelair.errors import Conflict, LairError, PreconditionFailed

if TYPE_CHECKING:
    from sourcelair.cli.original import Found
    from sourcelair.client.ceryx import CeryxClient

AT_ONCE = 100
"""Routes in one batch: what every kind of store takes in one transaction."""

Fate = Literal["created", "changed", "same", "left", "refused"]
"""What becomes of a route. `left`: there is another one of that host already; `refused`: it can't be one of ours."""

FATES: tuple[Fate, ...] = get_args(Fate)


@dataclass(slots=True)
class Taken:
    """One route of theirs: its host, what becomes of it, and why where it is not taken over."""

    source: str
    fate: Fate
    reason: str | None = None
    write: RouteWrite | None = None


def plan(found: Sequence[Found], existing: Sequence[StoredRoute], *, overwrite: bool) -> list[Taken]:
    """Decide what becomes of each route.

    Args:
        found: theirs.
        existing: ours, as they stand.
        overwrite: theirs go over ours where they differ; never over those of servers.
    """
    ours = {route.source: route for route in existing}
    known = dict[str, str]()
    decided = list[Taken]()
    # A host in its proper form first: the original looked no other form up.
    for one in sorted(found, key=lambda one: one.route is not None and one.route.source != one.source):
        if one.route is None:
            decided.append(Taken(one.source, "refused", one.problem))
        elif (twin := known.get(one.route.source)) is not None:
            decided.append(Taken(one.source, "refused", f"it is the same host as {twin}."))
        else:
            known[one.route.source] = one.source
            decided.append(_decide(one.route, ours.get(one.route.source), overwrite=overwrite))
    return decided


def _decide(route: Route, ours: StoredRoute | None, *, overwrite: bool) -> Taken:
    if ours is None:
        return Taken(route.source, "created", write=RouteWrite(source=route.source, route=route, expect=0))
    if (ours.target, ours.settings) == (route.target, route.settings):
        return Taken(route.source, "same")
    if ours.managed_by is not None:
        return Taken(route.source, "left", f"it is managed by {ours.managed_by}.")
    if not overwrite:
        return Taken(
            route.source, "left", f"there is another ({ours.target or 'without a target'}): --overwrite replaces it."
        )
    return Taken(route.source, "changed", write=RouteWrite(source=route.source, route=route, expect=ours.revision))


async def carry_out(client: CeryxClient, decided: Sequence[Taken]) -> None:
    """Write what is to be written, in batches; what somebody else changed meanwhile is left as it is then.

    Raises:
        LairError: the rest can't be written; `written` in its `extra` says how many routes were.
    """
    due = [one for one in decided if one.write is not None]
    written = 0
    try:
        for at in range(0, len(due), AT_ONCE):
            written += await _batch(client, due[at : at + AT_ONCE])
    except LairError as error:
        error.extra["written"] = written
        error.detail += f" {written} of {len(due)} routes were written; it can be done again."
        raise


async def _batch(client: CeryxClient, some: Sequence[Taken]) -> int:
    left = {one.write.source: one for one in some if one.write is not None}
    while left:
        try:
            await client.batch([one.write for one in left.values() if one.write is not None])
            return len(left)
        except (PreconditionFailed, Conflict) as error:
            if (one := left.pop(str(error.extra.get("source")), None)) is None:
                raise
            one.fate, one.reason = "left", f"somebody changed it meanwhile: {error.detail}"
    return 0
