"""Policies as people write and read them: `key=value`, times of the week, rules for quiet requests, who says what."""

from __future__ import annotations

import difflib
import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sourcelair.cli import output, values
from sourcelair.errors import InvalidInput

if TYPE_CHECKING:
    from pydantic import BaseModel

    from sourcelair.client.policy import Policy

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")

_WINDOW = re.compile(r"(?P<days>\S+)\s+(?P<start>\d{1,2}:\d\d)-(?P<end>\d{1,2}:\d\d)(?:\s+(?P<timezone>\S+))?")
_DURATIONS = {"sleep.doze_after", "sleep.stop_after", "sleep.max_lifetime"}
_TIMES = {
    "sleep.min_awake", "sleep.warn_before", "sleep.drain_timeout", "sleep.stop_grace", "wake.patience", "wake.timeout",
}  # fmt: skip


def window(text: str) -> dict[str, Any]:
    """Return a time of the week: `mon-fri 9:00-17:00 Europe/Athens`, `sat,sun 10:00-14:00`, `daily 8:00-24:00`.

    Raises:
        InvalidInput: it is something else.
    """
    match = _WINDOW.fullmatch(text.strip())
    if match is None:
        raise InvalidInput(f"{text!r} is not a time of the week: write 'mon-fri 9:00-17:00 Europe/Athens'.")
    found: dict[str, Any] = {
        "days": _days(match["days"].lower()),
        "start": match["start"].zfill(5),
        "end": match["end"].zfill(5),
    }
    return found | ({"timezone": match["timezone"]} if match["timezone"] else {})


def _days(text: str) -> list[str]:
    if text == "daily":
        return list(DAYS)
    found: list[str] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if first not in DAYS or (last if dash else first) not in DAYS:
            raise InvalidInput(f"{part!r} is not a day: write mon, tue, wed, thu, fri, sat, sun, mon-fri or daily.")
        at, end = DAYS.index(first), DAYS.index(last if dash else first)
        found += [DAYS[(at + step) % 7] for step in range((end - at) % 7 + 1)]
    return list(dict.fromkeys(found))


def rule(text: str) -> dict[str, Any]:
    """Return a rule for quiet requests: `path=/health* method=GET`, `agent="Uptime Robot"`, `address=10.0.0.0/8`.

    Raises:
        InvalidInput: it is something else.
    """
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise InvalidInput(f"{text!r} is not a rule: {error}.") from error
    pairs = [word.partition("=") for word in words]
    if not pairs or not all(name and equals for name, equals, _ in pairs):
        raise InvalidInput(f"{text!r} is not a rule: write 'path=/health* method=GET'.")
    from sourcelair.client.policy import QuietRule

    if unknown := [name for name, _, _ in pairs if name not in QuietRule.model_fields]:
        raise InvalidInput(f"{unknown[0][:80]!r} is nothing that a rule says: {', '.join(QuietRule.model_fields)} are.")
    return {name: value for name, _, value in pairs}


def keys() -> dict[str, str]:
    """Return all that a policy may say, as `sleep.stop_after`, with what it means."""
    from sourcelair.client.policy import Limits, SleepPolicy, WakePolicy

    parts: dict[str, type[BaseModel]] = {"sleep": SleepPolicy, "wake": WakePolicy, "limits": Limits}
    return {
        f"{part}.{name}": field.description or ""
        for part, model in parts.items()
        for name, field in model.model_fields.items()
    }


def known(key: str) -> str:
    """Return a key that there is. Raises InvalidInput: there is none of that name."""
    if key in (there := keys()):
        return key
    close = difflib.get_close_matches(key, there, 1)
    raise InvalidInput(
        f"{key[:80]!r} is nothing that a policy says{f'; did you mean {close[0]}?' if close else '.'} "
        "`lair policy --help` has all of them."
    )


def value(key: str, text: str) -> Any:
    """Return what was typed for a key, as the API takes it.

    Raises:
        InvalidInput: it can't be read.
    """
    if key in _DURATIONS:
        return values.duration(text)
    if key in _TIMES:
        return values.seconds(text)
    if key == "limits.memory_bytes":
        return values.size(text)
    if key in {"sleep.schedule", "wake.quiet"}:
        if text.lstrip().startswith("["):
            try:
                return json.loads(text)
            except ValueError as error:
                raise InvalidInput(f"{key}: this is no JSON: {error}.") from error
        parse = window if key == "sleep.schedule" else rule
        return [parse(part) for part in text.split(";") if part.strip()]
    return text


def assigned(pairs: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return what `key=value` pairs say, as the parts of a policy.

    Raises:
        InvalidInput: one is no such pair.
    """
    found: dict[str, dict[str, Any]] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals:
            raise InvalidInput(f"{pair[:80]!r} has no value: write sleep.stop_after=10m.")
        part, _, name = known(key).partition(".")
        found.setdefault(part, {})[name] = value(key, text)
    return found


def lines(policy: Policy) -> Iterator[tuple[str, str]]:
    """Give all that a policy says, as a person reads it."""
    for key in keys():
        found = _get(policy, key)
        if found is not None:
            yield key, shown(key, found)


def origins(effective: Policy, own: Policy, owners: Policy | None) -> Iterator[tuple[str, str, str]]:
    """Give all that is in effect: key, value, and whether the server says it, its owner, or the installation."""
    for key, text in lines(effective):
        if _get(own, key) is not None:
            yield key, text, "server"
        elif owners is not None and _get(owners, key) is not None:
            yield key, text, "owner"
        else:
            yield key, text, "installation"


def _get(policy: Policy, key: str) -> Any:
    part, _, name = key.partition(".")
    return getattr(getattr(policy, part), name)


def shown(key: str, found: Any) -> str:
    """Return a value as a person reads it, and mostly as it may be typed again."""
    if key == "limits.memory_bytes":
        return f"{found / (1 << 20):g}M"
    if key in _DURATIONS | _TIMES:
        return found if isinstance(found, str) else time(found)
    if key == "sleep.schedule":
        each = (f"{','.join(w.days)} {w.start}-{w.end} {w.timezone}" for w in found)
        return "; ".join(each) or "none"
    if key == "wake.quiet":
        return "; ".join(_shown_rule(each.model_dump(exclude_defaults=True)) for each in found) or "none"
    if isinstance(found, bool):
        return "yes" if found else "no"
    return f"{found:g}" if isinstance(found, float) else str(found)


def _shown_rule(said: Mapping[str, Any]) -> str:
    return " ".join(f"{name}={shlex.quote(str(each)) if name != 'path' else each}" for name, each in said.items())


def time(seconds: float) -> str:
    """Return a duration in the largest unit that says it exactly, as it may be typed again."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:g}{unit}"
    return f"{seconds:g}s"


def table(policy: Policy) -> None:
    """Print a policy."""
    rows = list(lines(policy))
    width = max((len(key) for key, _ in rows), default=0) + 2
    for key, text in rows:
        output.line(f"{key:<{width}}{text}")
