"""The two sample projects that `lair up` creates at its first start."""

from __future__ import annotations

import sys
from pathlib import Path

from sourcelair.cli.system.directory import DataDirectory
from sourcelair.client.servers import Server, ServerInput, ServersClient, Spec
from sourcelair.errors import Conflict, NotFound, PreconditionFailed

OWNER = "demo"

COMMANDS = {
    "hello": [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", "{port}"],
    "clock": [sys.executable, "app.py", "{port}"],
}
"""The projects, and how each is started in its directory."""


def examples() -> Path | None:
    """Return where the sample projects lie: in the installed package, or in the checkout. None: in neither."""
    package = Path(__file__).parents[2]
    candidates = (package / "examples", package.parents[1] / "examples")
    return next((path for path in candidates if all((path / name).is_dir() for name in COMMANDS)), None)


async def create_demo(client: ServersClient, directory: DataDirectory) -> None:
    """Create the sample projects, once in the life of a data directory: who removed them does not want them back."""
    marker = directory.path / "demo.created"
    samples = examples()
    if marker.exists() or samples is None:
        return
    for project, command in COMMANDS.items():
        try:
            spec = Spec(command=command, directory=str(samples / project))
            await client.put(OWNER, project, ServerInput(spec=spec), create_only=True)
        except (Conflict, PreconditionFailed):
            continue
    marker.touch(mode=0o600)


async def demo_servers(client: ServersClient) -> list[Server]:
    """Return the sample projects that are still there."""
    found = []
    for project in COMMANDS:
        try:
            found.append(await client.get(OWNER, project))
        except NotFound:
            continue
    return found
