"""`lair show`: all facts about one server, what is in effect for it, and how long its starts take."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from sourcelair.cli import output, values
from sourcelair.cli.command import command
from sourcelair.cli.servers import Name, shown_state
from sourcelair.cli.session import Session, split_name
from sourcelair.errors import LairError, NotFound

if TYPE_CHECKING:
    from sourcelair.client.owners import OwnerPolicy
    from sourcelair.client.servers import Server, ServersClient, Timing, WakeReport

BAR = 30
"""Characters of the longest bar."""

LAST = 5
"""Starts that are shown one by one."""


@command
async def show(session: Session, name: Name) -> None:
    """Show all facts about a server: state, policy in effect, how long its starts take, last exit, failure."""
    owner, project = split_name(name)
    async with session.servers() as client:
        server = await client.get(owner, project)
        report = await _report(client, owner, project)
        owners = await _owners(client, owner)
        left = await _time_left(client, owner, project)
    if session.as_json:
        more = {
            "report": report.model_dump() if report else None,
            "owner_policy": owners.policy.model_dump() if owners else None,
            "time_left": left,
        }
        output.as_json({**server.model_dump(), **more})
        return
    for label, value in (*_facts(server), *_left(left), *_report_lines(report), *_policy(server, owners)):
        if value:
            output.line(f"{label:<13}{value}")
    if server.failure:
        output.line(f"{'failure':<13}{server.failure}")
        for text in server.failure_log:
            output.line(f"{'':<13}| {text}")


async def _report(client: ServersClient, owner: str, project: str) -> WakeReport | None:
    try:
        return await client.report(owner, project)
    except NotFound:  # removed meanwhile, or an API from before there were any
        return None


async def _owners(client: ServersClient, owner: str) -> OwnerPolicy | None:
    try:
        return await client.get_owner(owner)
    except NotFound:
        return None


async def _time_left(client: ServersClient, owner: str, project: str) -> dict[str, Any] | None:
    """Return what Hemera says of how long it stays awake; None where it says nothing."""
    from sourcelair.client.http import segment

    try:
        path = f"/api/time-left/{segment(owner)}/{segment(project)}/"
        found = (await client.request("GET", path)).json()
    except LairError:
        return None
    return found if isinstance(found, dict) else None


def _facts(server: Server) -> Iterator[tuple[str, str]]:
    spec, instance, exit_ = server.spec, server.instance, server.last_exit
    yield "server", f"{server.owner}/{server.project}"
    yield "url", server.url
    yield "hosts", ", ".join(server.hosts)
    why = ", ".join(part for part in (server.cause, server.actor and f"by {server.actor}") if part)
    yield "state", shown_state(server) + (f" ({why})" if why else "")
    yield "since", output.ago(server.changed_at)
    yield "wanted", server.desired + (", always on" if server.always_on else "")
    yield "driver", spec.driver
    yield "command", values.shell_line(spec.command)
    yield "directory", spec.directory or ""
    yield "env", ", ".join(spec.env)
    yield "ready", spec.readiness.path + (f" -> {spec.readiness.status}" if spec.readiness.status else "")
    if instance:
        where = f"{instance.host}:{instance.port}" if instance.port else "no port yet"
        process = f", process {instance.pid}" if instance.pid else ""
        yield "instance", f"{instance.id} on {where}{process}, started {output.ago(instance.started_at)}"
        yield from _kept("busy", instance.busy_until)
        yield from _kept("extended", instance.extended_until)
    if server.timing:
        yield "last start", _steps(server.timing)
    if exit_:
        yield "last exit", f"{exit_.reason}, {output.ago(exit_.at)}"
    if server.given_up:
        yield "next try", "none by itself: `lair start` tries again, or change its spec"
    elif server.retry_at:
        yield "next try", output.until(server.retry_at)


def _kept(label: str, until: float | None) -> Iterator[tuple[str, str]]:
    if until is not None and output.until(until) != "now":
        yield label, f"until {output.clock(until)} ({output.until(until)})"


def _left(left: dict[str, Any] | None) -> Iterator[tuple[str, str]]:
    if left is None:
        return
    seconds, reason = left.get("seconds_left"), left.get("reason")
    said = f" ({reason})" if reason else ""
    if isinstance(seconds, int | float):
        yield "sleeps", f"in {output.duration(seconds)}{said}"
    elif reason:
        yield "sleeps", f"not by itself{said}"


def _steps(timing: Timing) -> str:
    return ", ".join(f"{name} {value:.1f} ms" for name, value in timing.model_dump().items() if value is not None)


def _report_lines(report: WakeReport | None) -> Iterator[tuple[str, str]]:
    if report is None or not report.starts or report.usual is None:
        return
    yield "usual start", f"{_ms(report.usual)} (median of the last {len(report.last)} of {report.starts} cold starts)"
    yield "breakdown", _steps(report.breakdown)
    yield "last starts", ", ".join(_ms(timing.published) for timing in report.last[:LAST] if timing.published)
    label, most = "histogram", max(report.histogram.values())
    lower = "0"
    for bound, count in report.histogram.items():
        if count:
            bounds = f"over {_ms(float(lower))}" if bound == "inf" else f"up to {_ms(float(bound))}"
            yield label, f"{bounds:<14}{'#' * max(1, round(BAR * count / most))} {count}"
            label = ""
        lower = bound


def _ms(milliseconds: float) -> str:
    return f"{milliseconds / 1000:.3g} s" if milliseconds >= 1000 else f"{milliseconds:.3g} ms"


def _policy(server: Server, owners: OwnerPolicy | None) -> Iterator[tuple[str, str]]:
    from sourcelair.cli import policies

    label = "policy"
    for key, text, origin in policies.origins(server.policy, server.spec.policy, owners.policy if owners else None):
        yield label, f"{key:<20}{text}" + (f"  ({origin})" if origin != "installation" else "")
        label = ""
