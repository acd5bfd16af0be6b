"""Exit codes: what a script learns without reading the message.

====  ==========================================================================
0     done
1     anything else, such as a token that is missing or may not do this
2     bad usage or bad input
3     no such thing
4     conflict: it exists already, belongs to another, or its state forbids it
5     the system does not answer
6     it failed: the server did not start, or the system did not come up
130   interrupted (Ctrl-C)
====  ==========================================================================
"""

from __future__ import annotations

from sourcelair.errors import (
    BadRequest,
    Conflict,
    InvalidInput,
    LairError,
    NotFound,
    PreconditionFailed,
    TooLarge,
    Unavailable,
    Unreachable,
)

DONE, OTHER, USAGE, NOT_FOUND, CONFLICT, UNREACHABLE, FAILED, INTERRUPTED = 0, 1, 2, 3, 4, 5, 6, 130

_CODES: tuple[tuple[tuple[type[LairError], ...], int], ...] = (
    ((InvalidInput, BadRequest, TooLarge), USAGE),
    ((NotFound,), NOT_FOUND),
    ((Conflict, PreconditionFailed), CONFLICT),
    ((Unreachable,), UNREACHABLE),
    ((Unavailable,), FAILED),
)


def kind_of(code: int) -> type[LairError]:
    """Return the kind of error that a process of ours ended with: the one that gives this exit code again."""
    return next((kinds[0] for kinds, known in _CODES if known == code), LairError)


def code_of(error: LairError) -> int:
    """Return the exit code for an error."""
    return next((code for kinds, code in _CODES if isinstance(error, kinds)), OTHER)
