"""`lair store`: moving what an installation stores, and taking over what others stored."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from sourcelair.cli import output
from sourcelair.cli.command import command
from sourcelair.cli.session import Session

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
