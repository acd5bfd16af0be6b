"""The commands, put together."""

from __future__ import annotations

from typing import Annotated

import typer

from sourcelair import __version__
from sourcelair.cli import output
from sourcelair.cli.create import create
from sourcelair.cli.doctor import doctor
from sourcelair.cli.down import down
from sourcelair.cli.lifecycle import extend, restart, start, stop, wake
from sourcelair.cli.logs import logs
from sourcelair.cli.owners import policy
from sourcelair.cli.parts import api, ceryx, hemera
from sourcelair.cli.routes import nodes, routes
from sourcelair.cli.servers import ls, open_, rm
from sourcelair.cli.show import show
from sourcelair.cli.store import store
from sourcelair.cli.switches import disable, enable
from sourcelair.cli.tokens import tokens
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


for name, run in {
    "up": up,
    "down": down,
    "create": create,
    "ls": ls,
    "show": show,
    "start": start,
    "stop": stop,
    "restart": restart,
    "wake": wake,
    "extend": extend,
    "enable": enable,
    "disable": disable,
    "logs": logs,
    "open": open_,
    "rm": rm,
    "policy": policy,
    "doctor": doctor,
    "ceryx": ceryx,
    "api": api,
    "hemera": hemera,
}.items():
    app.command(name)(run)
app.add_typer(routes, name="routes")
app.add_typer(tokens, name="token")
app.add_typer(nodes, name="nodes")
app.add_typer(store, name="store")
