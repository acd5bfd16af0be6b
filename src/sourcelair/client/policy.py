"""What may be said of how servers sleep, wake and are limited: per server, as an owner's defaults, and in effect.

Null means "as the next one says": a server's own policy, then its owner's defaults, then the installation's settings.
"""

from __future__ import annotations

import re
from ipaddress import ip_network
from typing import Annotated, Any, Literal, Self, TypeVar
from zoneinfo import ZoneInfo

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)


def _duration(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
    """Say in one message what both of a union's parts refused: theirs name fields that are not there."""
    try:
        return handler(value)
    except ValidationError:
        raise ValueError("write a number of seconds greater than 0, or never") from None


Seconds = Annotated[float, Field(allow_inf_nan=False)]
Duration = Annotated[
    Annotated[float, Field(allow_inf_nan=False, gt=0)] | Literal["never"],
    WrapValidator(_duration),
]
"""Seconds, or `never`, which overrides an owner's default."""

Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]

MOST_QUIET = 8192
"""Bytes of text in all rules of a server about what is quiet: each of its routes has them in every proxy's memory."""

M = TypeVar("M", bound=BaseModel)

_CLOCK = r"^([01][0-9]|2[0-3]):[0-5][0-9]$|^24:00$"


def _text(value: str) -> str:
    """Refuse half of a surrogate pair: JSON can say it, and no file, header or program can hold it."""
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"it is not valid text: character {error.start + 1} is a lone surrogate") from None
    return value


Text = Annotated[str, AfterValidator(_text)]


def _timezone(value: str) -> str:
    try:
        ZoneInfo(value)
    except (ValueError, OSError, LookupError):
        raise ValueError(f"{value[:80]!r} is not a time zone: write one such as Europe/Athens, or UTC") from None
    return value


def _path(value: str) -> str:
    if value and not re.fullmatch(r"/[\x21-\x7e]*", value):
        raise ValueError("write a path that begins with / and is printable ASCII; an empty one means none")
    return value


def _address(value: str) -> str:
    try:
        ip_network(value, strict=False)
    except ValueError:
        raise ValueError(f"{value[:80]!r} is not an address or a range such as 10.0.0.0/8") from None
    return value


class Window(BaseModel):
    """A time of the week, on the wall clock of a time zone. An end that is not after the start is the next day's."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    days: list[Day] = Field(min_length=1, max_length=7, description="Days on which it starts.")
    start: str = Field(pattern=_CLOCK, description="HH:MM.")
    end: str = Field(pattern=_CLOCK, description="HH:MM; 24:00 is the end of the day.")
    timezone: Annotated[Text, AfterValidator(_timezone)] = Field("UTC", description="Name of the IANA database.")


class QuietRule(BaseModel):
    """Requests that match all that is said here neither wake a server nor keep it awake.

    The first rule that matches decides; after all of them come the robots and monitors that every node knows. One that
    says nothing matches everything: put last, it makes quiet what no rule before it lets wake.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: Annotated[Text, AfterValidator(_path)] | None = Field(
        None, max_length=500, description="The path; with a last `*`, what begins so."
    )
    method: str | None = Field(None, pattern=r"^[A-Z]{1,20}$", description="Such as HEAD.")
    agent: Text | None = Field(
        None, min_length=1, max_length=200, description="Part of the user agent, in whatever case."
    )
    address: Annotated[Text, AfterValidator(_address)] | None = Field(
        None, max_length=64, description="The visitor's address or range, as 10.0.0.0/8."
    )
    header: str | None = Field(None, pattern=r"^[A-Za-z0-9-]{1,100}$", description="Name of a header that is there.")
    value: Text | None = Field(None, min_length=1, max_length=200, description="Part of that header's value.")
    wakes: bool = Field(False, description="True: what matches is a visit after all, whatever comes below.")

    @model_validator(mode="after")
    def _of_a_header(self) -> Self:
        if self.value is not None and self.header is None:
            raise ValueError("value: name the header whose value it is")
        return self


def _small(rules: list[QuietRule]) -> list[QuietRule]:
    """Refuse what would take up the room of other routes in every proxy's memory."""
    texts = (each for rule in rules for _, each in rule if isinstance(each, str))
    if sum(len(each.encode()) for each in texts) > MOST_QUIET:
        raise ValueError(f"all rules together may have {MOST_QUIET} bytes of text")
    return rules


QuietRules = Annotated[list[QuietRule], Field(max_length=100), AfterValidator(_small)]


class SleepPolicy(BaseModel):
    """When and how it is put to sleep."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    doze_after: Duration | None = Field(
        None, description="Seconds without activity before it is frozen in memory; a visit thaws it in milliseconds."
    )
    stop_after: Duration | None = Field(
        None,
        validation_alias=AliasChoices("stop_after", "idle_timeout"),
        description="Seconds without activity before it is stopped.",
    )
    min_awake: Seconds | None = Field(None, ge=0, description="Seconds that it stays awake at least once it is.")
    max_lifetime: Duration | None = Field(
        None, description="Seconds after which an instance is stopped, used or not; a visit wakes the next one."
    )
    streams: Literal["always", "never", "flow"] | None = Field(
        None,
        description="Whether an open WebSocket or event stream keeps it awake: always, never, or while bytes flow.",
    )
    check: Annotated[Text, AfterValidator(_path)] | None = Field(
        None, max_length=500, description="Path that is asked before it sleeps: anything but 2xx is a veto."
    )
    schedule: list[Window] | None = Field(None, max_length=50, description="When it is kept awake, used or not.")
    warn_before: Seconds | None = Field(None, ge=0, description="Seconds before sleep at which visitors are warned.")
    drain_timeout: Seconds | None = Field(None, ge=0, description="Seconds that an explicit stop waits for requests.")
    stop_grace: Seconds | None = Field(None, ge=0, description="Seconds between SIGTERM and SIGKILL.")


class WakePolicy(BaseModel):
    """How it is woken, and what its visitors see meanwhile."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    patience: Seconds | None = Field(
        None, ge=0, le=3600, description="Seconds that a browser navigation is held before the waiting page."
    )
    timeout: Seconds | None = Field(None, gt=0, le=3600, description="Seconds that other requests are held.")
    tries: int | None = Field(
        None, ge=1, le=1000, description="Starts that fail in a row before only a person may try again."
    )
    show_log: bool | None = Field(
        None, description="Whether visitors see its log: true while it starts too, null where it failed, false never."
    )
    quiet: QuietRules | None = Field(None, description="Requests that neither wake it nor keep it awake.")


class Limits(BaseModel):
    """What one instance may use; null is no limit of ours."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    processes: int | None = Field(None, ge=1, description="Processes and threads.")
    open_files: int | None = Field(None, ge=16, description="Open files per process (RLIMIT_NOFILE).")
    memory_bytes: int | None = Field(
        None, ge=1 << 20, description="Memory of all its processes; without a memory cgroup, address space of each."
    )
    cpus: float | None = Field(
        None, ge=0.01, le=4096, allow_inf_nan=False, description="Processors that it may keep busy, such as 0.5."
    )


class Policy(BaseModel):
    """All three together: an owner's defaults, or what is in effect for a server."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sleep: SleepPolicy = Field(default_factory=SleepPolicy)
    wake: WakePolicy = Field(default_factory=WakePolicy)
    limits: Limits = Field(default_factory=Limits)

    def over(self, other: Policy) -> Policy:
        """Return this policy with what it leaves open taken from another."""
        return Policy(
            sleep=_over(self.sleep, other.sleep),
            wake=_over(self.wake, other.wake),
            limits=_over(self.limits, other.limits),
        )


def _over(first: M, second: M) -> M:
    return second.model_copy(update={name: value for name, value in first if value is not None})


def seconds(value: float | Literal["never"] | None) -> float | None:
    """Return a duration as seconds; None for one that is `never` or not set."""
    return None if value is None or value == "never" else value
