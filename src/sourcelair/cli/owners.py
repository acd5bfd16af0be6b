"""`lair policy`: what an owner says once for all of its servers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from sourcelair.cli import output
from sourcelair.cli.command import command
from sourcelair.cli.session import Session
from sourcelair.errors import NotFound, PreconditionFailed

if TYPE_CHECKING:
    from sourcelair.client.owners import OwnerPolicy
    from sourcelair.client.servers import ServersClient

TRIES = 5
"""Times that a change is tried: somebody else may have been faster."""


@command
async def policy(
    session: Session,
    owner: Annotated[str, typer.Argument(metavar="OWNER", help="Whose servers.", show_default=False)],
    change: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Such as sleep.doze_after=10m.", show_default=False),
    ] = None,
    *,
    unset: Annotated[list[str] | None, typer.Option(metavar="KEY", help="Say nothing of it; repeatable.")] = None,
) -> None:
    """Show or change what is in effect for all servers of an owner that do not say it themselves.

    Keys: sleep.doze_after, .stop_after, .min_awake, .max_lifetime, .streams, .check, .schedule, .warn_before,
    .drain_timeout, .stop_grace; wake.patience, .timeout, .tries, .show_log, .quiet; limits.processes, .open_files,
    .memory_bytes, .cpus. No instance is restarted for it; limits count from the next start on.
    """
    from sourcelair.cli import policies

    given = policies.assigned(change or [])
    dropped = [policies.known(key) for key in unset or []]
    async with session.servers() as client:
        found = await _change(client, owner, given, dropped) if given or dropped else await _read(client, owner)
    if session.as_json:
        output.as_json({"owner": owner, "policy": None, "revision": 0} if found is None else found.model_dump())
    elif found is None or not list(policies.lines(found.policy)):
        output.line(f"{owner} says nothing of its servers: the installation's settings are in effect.")
    else:
        policies.table(found.policy)


async def _read(client: ServersClient, owner: str) -> OwnerPolicy | None:
    try:
        return await client.get_owner(owner)
    except NotFound:
        return None


async def _change(
    client: ServersClient, owner: str, given: dict[str, dict[str, Any]], dropped: list[str]
) -> OwnerPolicy:
    from sourcelair.cli.changes import merged
    from sourcelair.cli.values import refused_by_the_model
    from sourcelair.client.policy import Policy

    left = TRIES
    while True:
        found = await _read(client, owner)
        body = found.policy.model_dump() if found is not None else {}
        for key in dropped:
            part, _, name = key.partition(".")
            body.get(part, {}).pop(name, None)
        with refused_by_the_model():
            wanted = Policy.model_validate(merged(body, given))
        try:
            return await client.put_owner(owner, wanted, expect=0 if found is None else found.revision)
        except PreconditionFailed:
            left -= 1
            if not left:
                raise
