"""What etcd's refusals mean. Its codes are too few to tell them apart, its messages are stable since 3.0."""

from __future__ import annotations

from enum import Enum

import grpc

from sourcelair.errors import Forbidden, HistoryCompacted, InvalidInput, LairError, OutOfSpace, TooLarge, Unavailable
from sourcelair.store.base import LeaseNotFound


class Failure(Enum):
    """What can be done about a call that failed."""

    NOT_DONE = "it never got to where it would have been done: another member may do it"
    UNCLEAR = "nobody knows whether it was done"
    EXPIRED = "the token has expired: authenticate, and do it again"
    REFUSED = "it was refused, and would be again"


_NOT_DONE = ("failed to connect", "no leader", "too many requests", "not started", "learner")
_TOKEN = ("invalid auth token", "revision of auth store is old", "revision in header is old")
_UNCLEAR = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.INTERNAL,
}


def failure_of(code: grpc.StatusCode, details: str) -> Failure:
    """Return what a failed call means."""
    if any(said in details for said in _TOKEN):
        return Failure.EXPIRED
    if any(said in details for said in _NOT_DONE):
        return Failure.NOT_DONE
    return Failure.UNCLEAR if code in _UNCLEAR else Failure.REFUSED


def refusal_of(code: grpc.StatusCode, details: str, user: str | None) -> Exception:
    """Return the error that a refusal stands for.

    Args:
        code: etcd's.
        details: its message.
        user: of etcd, as whom was asked.
    """
    said = details.removeprefix("etcdserver: ")
    who = f"The etcd user {user}" if user else "Who is no user of etcd"
    match said:
        case _ if "has been compacted" in said:
            return HistoryCompacted("That history is no longer kept by etcd: list again.")
        case _ if "future revision" in said:
            return InvalidInput("revision: it is yet to come.")
        case _ if "lease not found" in said:
            return LeaseNotFound("The lease has run out, or never was.")
        case _ if "database space exceeded" in said:
            return OutOfSpace(
                "etcd has used up its quota, and takes no writes: nothing was written. Compact, defragment and disarm "
                "its alarm (`etcdctl alarm disarm`), or raise its --quota-backend-bytes."
            )
        case _ if "too many operations" in said:
            return TooLarge("etcd does not take that many operations in one transaction: see its --max-txn-ops.")
        case _ if "request is too large" in said or "larger than max" in said:
            return TooLarge("etcd does not take that much in one request: see its --max-request-bytes.")
        case _ if "invalid user ID or password" in said:
            return LairError(f"etcd knows no user {user}, or the password is another: see password_file.")
        case _ if code == grpc.StatusCode.PERMISSION_DENIED or "user name is empty" in said:
            return Forbidden(f"{who} may not do this with our keys: {said}.")
        case _ if code in {grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.UNAUTHENTICATED}:
            return LairError(f"etcd refuses {user or 'whoever has no name'}: {said}. See user and password_file.")
        case _:
            return Unavailable(f"etcd refuses this: {said} ({code.name}).")
