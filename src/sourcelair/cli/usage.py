"""Running what was typed, and telling mistakes in it like all other errors: in one line, or in JSON."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import typer

from sourcelair.cli import exits, output
from sourcelair.errors import InvalidInput, LairError

_UsageError: type[Any] = typer.BadParameter.__mro__[1]
"""What typer raises for all that was typed wrong; only this child of it is public."""


def run(app: Callable[..., Any], arguments: Sequence[str]) -> int:
    """Run what was typed, and return the exit code.

    Args:
        app: the commands.
        arguments: as typed, without the program's name.
    """
    own = arguments[: list(arguments).index("--")] if "--" in arguments else arguments
    in_json = "--json" in own
    try:
        return app(arguments, prog_name="lair", standalone_mode=False) or exits.DONE
    except _UsageError as error:
        if error.message.startswith("Usage: "):  # a group without a command: its help is the best answer
            error.show()
            return exits.USAGE
        return _tell(InvalidInput(_describe(error)), in_json)
    except typer.Abort:
        return _tell(LairError("Nothing was done."), in_json)


def _describe(error: Any) -> str:
    said = " ".join(error.format_message().split()).rstrip(".")
    return f"{said}. See `{error.ctx.command_path if error.ctx else 'lair'} --help`."


def _tell(error: LairError, in_json: bool) -> int:
    output.error(error.detail, error.problem() if in_json else None)
    return exits.code_of(error)
