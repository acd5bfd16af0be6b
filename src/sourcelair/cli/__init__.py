"""The `lair` command: one module per group of commands.

- `app` puts the commands together, `usage` runs what was typed;
- `command` gives each the options and the error handling that all have;
- `session` finds the running system, its API and the token; `output` prints;
- `running` runs a process of the system, `up` all of it and `parts` a part; `system/` is what that process is made of.

Modules import what is heavy inside functions: `lair ls` starts in a fraction of the time that FastAPI takes to import.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the `lair` command, and end this process with its exit code.

    Args:
        arguments: of the command; those of this process where there are none.

    Until a command has begun something that must be ended in order, Ctrl-C ends this process on the spot: Python may
    lose a KeyboardInterrupt while modules are imported (importlib removes its locks in callbacks, whose exceptions are
    only printed).
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    # httpx imports its own command line tool, which takes as long as the rest of it: pretend that it isn't installed.
    sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]
    from sourcelair.cli.app import app
    from sourcelair.cli.usage import run

    sys.exit(run(app, sys.argv[1:] if arguments is None else arguments))
