"""What all commands have: the same options, and errors as one line."""

from __future__ import annotations

import asyncio
import functools
import inspect
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Annotated, Any

import typer

from sourcelair.cli import exits, output
from sourcelair.cli.session import Session
from sourcelair.errors import LairError, Unreachable

COMMON: dict[str, Any] = {
    "as_json": Annotated[
        bool, typer.Option("--json", help="Print JSON.", rich_help_panel="Common options", show_default=False)
    ],
    "data_dir": Annotated[
        Path | None,
        typer.Option(help="Where everything durable lies (LAIR_DATA_DIR).", rich_help_panel="Common options"),
    ],
    "api_listen": Annotated[
        str | None, typer.Option(help="Address of the APIs (LAIR_API_LISTEN).", rich_help_panel="Common options")
    ],
}


def command(function: Callable[..., Any]) -> Callable[..., None]:
    """Make a command of a function whose first argument is a `Session`; it may be a coroutine.

    It gets the options that all commands have, and its errors become one line and an exit code.
    """
    signature = inspect.signature(function, eval_str=True)
    own = [parameter for name, parameter in signature.parameters.items() if name != "session"]
    common = [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=False if name == "as_json" else None, annotation=annotation
        )
        for name, annotation in COMMON.items()
    ]

    @functools.wraps(function)
    def run(**values: Any) -> None:
        as_json = values.pop("as_json")
        flags = {name: values.pop(name) for name in ("data_dir", "api_listen")}
        session = Session(as_json, flags)
        with_errors(session, lambda: _call(function, session, values))

    parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own] + common
    run.__signature__ = signature.replace(parameters=parameters, return_annotation=None)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    del run.__wrapped__  # or the signature would be taken from there
    return run


def _call(function: Callable[..., Any], session: Session, values: dict[str, Any]) -> None:
    result = function(session, **values)
    if inspect.iscoroutine(result):
        if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        asyncio.run(_await(result))


async def _await(work: Coroutine[Any, Any, None]) -> None:
    await work


def with_errors(session: Session, work: Callable[[], None]) -> None:
    """Run a command's work; end the process with one line and an exit code where it fails."""
    try:
        try:
            work()
        except json.JSONDecodeError as error:
            raise Unreachable(f"What answers at {session.api_url} is not SourceLair: it sent no JSON.") from error
    except (typer.Exit, typer.Abort):
        raise
    except LairError as error:
        if os.environ.get("LAIR_DEBUG"):
            raise
        explained = session.explain(error)
        output.error(explained, {**error.problem(), "detail": explained} if session.as_json else None)
        if not session.as_json:  # the object has them
            output.log_lines(error.extra.get("log"))
        raise typer.Exit(exits.code_of(error)) from None
    except KeyboardInterrupt:
        raise typer.Exit(exits.INTERRUPTED) from None
    except BrokenPipeError:
        # Who read our output has gone, as `head` does. Keep the interpreter from complaining about it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(exits.OTHER) from None
    except Exception as error:
        if os.environ.get("LAIR_DEBUG"):
            raise
        unexpected = LairError(f"Unexpected error ({type(error).__name__}: {error}). {_keep_trace(session)}")
        output.error(unexpected.detail, unexpected.problem() if session.as_json else None)
        raise typer.Exit(exits.OTHER) from None


def _keep_trace(session: Session) -> str:
    """Write the traceback to a file, and return where to find it."""
    try:
        path = session.data_dir / "logs" / "cli.log"
        with path.open("a") as log:
            log.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')} {' '.join(sys.argv[:2])}\n{traceback.format_exc()}\n")
    except (OSError, LairError):
        return "LAIR_DEBUG=1 shows where it comes from."
    return f"More is in {path}; please report it."
