"""The commands, put together."""

from __future__ import annotations

from typing import Annotated

import typer

from sourcelair import __version__
from sourcelair.cli import output
from sourcelair.cli.down import down
from sourcelair.cli.up import up

app = typer.Typer(
    help="A stable public URL for every project server, whether or not it is running.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        output.line(f"lair {__version__}")
        raise typer.Exit


@app.callback()
def _lair(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


app.command("up")(up)
app.command("down")(down)
