"""Loaded by a `lair api` under test: it stops itself (SIGSTOP) the first time that it comes to a step.

`STANDSTILL` says where: `MODULE:CLASS.METHOD:before|after`; `STANDSTILL_MARK` is a file whose existence arms it, and
which is gone once that has happened.
"""

import functools
import importlib
import inspect
import os
import pathlib
import signal
import sys


def _stand_still() -> None:
    try:
        pathlib.Path(os.environ["STANDSTILL_MARK"]).unlink()
    except FileNotFoundError:
        return
    os.kill(os.getpid(), signal.SIGSTOP)


def _arm(where: str) -> None:
    module, path, phase = where.split(":")
    *outer, name = path.split(".")
    owner = functools.reduce(getattr, outer, importlib.import_module(module))
    real = getattr(owner, name)

    @functools.wraps(real)
    async def stepped(*args: object, **kwargs: object) -> object:
        if phase == "before":
            _stand_still()
        result = await real(*args, **kwargs)
        if phase == "after":
            _stand_still()
        return result

    @functools.wraps(real)
    def stepped_at_once(*args: object, **kwargs: object) -> object:
        if phase == "before":
            _stand_still()
        result = real(*args, **kwargs)
        if phase == "after":
            _stand_still()
        return result

    setattr(owner, name, stepped if inspect.iscoroutinefunction(real) else stepped_at_once)


if "STANDSTILL" in os.environ and "sourcelair.cli" in sys.orig_argv:
    _arm(os.environ["STANDSTILL"])
