"""Lets NGINX itself check the configuration that we render, and load every Lua file: ``python -m …nginx.check``."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from sourcelair.ceryx.nginx.programs import find_program
from sourcelair.ceryx.nginx.render import Place, render
from sourcelair.errors import LairError
from sourcelair.settings import Settings

CHECK_TIMEOUT = 30.0
"""Seconds for `nginx -t`."""

OPEN_FILES = 1024


def check(settings: Settings) -> str:
    """Return what NGINX says of the configuration for these settings.

    Raises:
        LairError: it refuses it; the message is NGINX's own.
    """
    program = find_program(settings)
    with tempfile.TemporaryDirectory(prefix="lair-check-") as name:
        directory = Path(name)
        place = Place(
            config=directory / "nginx.conf",
            pid_file=directory / "nginx.pid",
            control=directory / "control.sock",
            bodies=directory,
            error_log=directory / "error.log",
            access_log=directory / "access.log",
            user=None,
        )
        place.config.write_text(render(settings, program, place, open_files=OPEN_FILES))
        command = [
            str(part) for part in (program.path, "-t", "-p", directory, "-c", place.config, "-e", place.error_log)
        ]
        told = subprocess.run(command, capture_output=True, text=True, timeout=CHECK_TIMEOUT, check=False)
        said = (told.stderr + (place.error_log.read_text() if place.error_log.exists() else "")).strip()
    if told.returncode:
        raise LairError(f"{program.version} refuses the configuration: {said}")
    return program.version


def main() -> int:
    """Check with settings that turn everything on. Returns the exit status."""
    try:
        version = check(Settings(data_dir=Path("unused"), trusted_proxies=["10.0.0.0/8"], nginx_workers=2))
    except LairError as error:
        print(error.detail, file=sys.stderr)
        return 1
    print(f"{version} takes the configuration and all Lua files")
    return 0


if __name__ == "__main__":
    sys.exit(main())
