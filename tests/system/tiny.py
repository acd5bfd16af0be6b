"""The server that starts as fast as a process can: made from `apps/tiny.c`."""

from __future__ import annotations

import subprocess
from pathlib import Path

SOURCE = Path(__file__).parent / "apps" / "tiny.c"


def built(directory: Path) -> Path:
    """Return the program, built in this folder. Static: what is linked at its start costs more than all the rest."""
    program = directory / "tiny"
    if not program.exists():
        subprocess.run(["cc", "-O1", "-static", "-o", program, SOURCE], check=True)
    return program
