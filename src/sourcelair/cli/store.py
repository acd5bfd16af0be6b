"""`lair store`: moving what an installation stores, and taking over what others stored."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sourcelair.cli import exits, output
from sourcelair.cli.command import command
from sourcelair.cli.session import Session

if TYPE_CHECKING:
    from sourcelair.cli.takeover import Taken

store = typer.Typer(no_args_is_help=True, help="What is stored: copy it elsewhere, or take over another's.")

STORES = ("ceryx", "servers", "auth")
"""The stores of an installation."""


@store.command("copy")
@command
async def copy(
    session: Session,
    source: Annotated[
        str, typer.Argument(metavar="FROM", help="Data directory, or etcd://HOST:PORT/PREFIX.", show_default=False)
    ],
    target: Annotated[
        str, typer.Argument(metavar="TO", help="Likewise; empty, or an earlier copy.", show_default=False)
    ],
    *,
    follow: Annotated[
        bool, typer.Option("--follow", help="Go on until the system on FROM is stopped, and finish the copy then.")
    ] = False,
) -> None:
    """Copy all stores to another place, and compare them key by key. The system on FROM may run.

    FROM is never changed. What a copy of a running system lacks, a later one brings; a system starts only on one that
    was finished while nothing ran on FROM.
    """
    from sourcelair.store.copying import copy
    from sourcelair.store.places import place_of

    begin, end = place_of(source), place_of(target)
    say = (lambda _: None) if session.as_json else output.line
    outcome = await copy(begin, end, STORES, follow=follow, say=say)
    if session.as_json:
        output.as_json({"from": str(begin), "to": str(end), **asdict(outcome)})
        return
    rows = [
        (name, *map(str, (done.keys, done.written, done.removed, done.revision)))
        for name, done in outcome.stores.items()
    ]
    output.table(("STORE", "KEYS", "WRITTEN", "REMOVED", "AT REVISION"), rows)
    if outcome.whole:
        flag = "--store" if "://" in target else "--data-dir"
        output.line(f"Nothing differs. Start on it with `lair up {flag} {target}`.")
    else:
        output.line(
            f"Nothing differed at these revisions; a system goes on on {begin}. Stop it, and do this again; "
            "or do it with --follow now, and stop it meanwhile."
        )


@store.command("import-ceryx")
@command
async def import_ceryx(
    session: Session,
    address: Annotated[
        str, typer.Argument(metavar="REDIS", help="redis://HOST:PORT/DB, rediss:// with TLS.", show_default=False)
    ],
    *,
    prefix: Annotated[str, typer.Option(help="What its keys begin with, as CERYX_REDIS_PREFIX said.")] = "ceryx",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace routes that are there and differ.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
    password_file: Annotated[
        Path | None, typer.Option(help="Its first line is the password; default: CERYX_REDIS_PASSWORD.")
    ] = None,
) -> None:
    """Take over the routes of the original Ceryx from its Redis, which is only read.

    It can be done again at any time: what is there already stays as it is. Ends with 1 where a route was not taken.
    """
    from sourcelair.cli.original import parse_address, read_password, read_routes
    from sourcelair.cli.takeover import carry_out, plan

    found = await read_routes(parse_address(address), read_password(password_file), prefix)
    async with session.ceryx() as client:
        existing, _ = await client.list_routes()
        decided = plan(found, existing, overwrite=overwrite)
        if not dry_run:
            await carry_out(client, decided)
    _tell_taken(session, decided, dry_run=dry_run)
    if any(one.reason for one in decided):
        raise typer.Exit(exits.OTHER)


def _tell_taken(session: Session, decided: list[Taken], *, dry_run: bool) -> None:
    from sourcelair.cli.takeover import FATES

    counts = Counter(one.fate for one in decided)
    if session.as_json:
        routes = [
            {"source": one.source, "fate": one.fate, "reason": one.reason} for one in decided if one.fate != "same"
        ]
        output.as_json({"dry_run": dry_run, "counts": {fate: counts[fate] for fate in FATES}, "routes": routes})
        return
    for one in decided:
        if one.fate != "same":
            output.line(f"{one.fate:<8} {one.source}{f': {one.reason}' if one.reason else ''}")
    said = ", ".join(f"{counts[fate]} {fate}" for fate in FATES if counts[fate]) or "no routes found"
    output.line(f"{'Nothing was done; it would be: ' if dry_run else ''}{said}.")
