"""`lair token`: make, list and revoke tokens."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from sourcelair.cli import output
from sourcelair.cli.command import command
from sourcelair.cli.session import Session

tokens = typer.Typer(no_args_is_help=True, help="Tokens: who may do what.")


class TokenKind(StrEnum):
    """What a token may be made for."""

    admin = "admin"
    owner = "owner"
    read = "read"


@tokens.command("create")
@command
async def create(
    session: Session,
    *,
    owner: Annotated[str | None, typer.Option(help="Whose servers it is for.")] = None,
    kind: Annotated[TokenKind | None, typer.Option(help="Default: owner with --owner.", show_default=False)] = None,
    note: Annotated[str, typer.Option(help="What it is for; shown in lists.")] = "",
) -> None:
    """Make a token and print it. It is shown this once: only its hash is kept."""
    body = {"kind": (kind or TokenKind.owner).value, "owner": owner, "note": note}
    async with session.api() as client:
        made = (await client.request("POST", "/api/tokens/", body=body)).json()
    if session.as_json:
        output.as_json(made)
    else:
        output.line(made["token"])


@tokens.command("list")
@command
async def list_(session: Session) -> None:
    """List tokens; never the tokens themselves."""
    async with session.api() as client:
        found = (await client.request("GET", "/api/tokens/")).json()
    if session.as_json:
        output.as_json(found)
        return
    rows = [(t["id"], t["kind"], t["owner"] or "", output.ago(t["created_at"]), t["note"]) for t in found]
    output.table(("ID", "KIND", "OWNER", "CREATED", "NOTE"), rows)


@tokens.command("revoke")
@command
async def revoke(
    session: Session, token_id: Annotated[str, typer.Argument(help="Its id, from the list.", show_default=False)]
) -> None:
    """Make a token worthless, at once."""
    from sourcelair.client.http import segment

    async with session.api() as client:
        await client.request("DELETE", f"/api/tokens/{segment(token_id)}/")
    if session.as_json:
        output.as_json({"revoked": token_id})
    else:
        output.line(f"Revoked {token_id}.")
