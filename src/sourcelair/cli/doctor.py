"""`lair doctor`: looks at everything that can be wrong, and says what to do about it."""

from __future__ import annotations

import typer

from sourcelair.cli import exits, output
from sourcelair.cli.command import command
from sourcelair.cli.session import Session

STYLES = {"ok": "green", "warn": "yellow", "fail": "red", "note": "blue"}


@command
async def doctor(session: Session) -> None:
    """Look for what is wrong, and say what to do. Ends with 0 unless something has failed."""
    from sourcelair.cli.checks import check_all

    findings = await check_all(session)
    if session.as_json:
        output.as_json([finding.__dict__ for finding in findings])
    else:
        from rich.text import Text

        for finding in findings:
            line = Text(f"{finding.status:<5}", style=STYLES[finding.status])
            line.append(f"{finding.subject:<14}{finding.detail}", style="default")
            if finding.todo:
                line.append(f"\n{'':<19}-> {finding.todo}", style="default")
            output.console().print(line)
    if any(finding.status == "fail" for finding in findings):
        raise typer.Exit(exits.FAILED)
