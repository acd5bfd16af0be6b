"""What can be seen from here to be wrong with a server that was just created, long before somebody visits it.

The command line and the servers are usually on one machine. Where they are not this is a false alarm, so it never
refuses anything.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sourcelair.client.servers import Spec


def doubt(spec: Spec) -> str | None:
    """Return why a spec could not start on this machine, in the words that its start would have; None if it could."""
    if spec.driver != "process":
        return None
    from sourcelair.servers.context import HIDDEN
    from sourcelair.servers.drivers.base import StartFailed
    from sourcelair.servers.drivers.process.commands import check_directory, find_program

    try:
        directory = check_directory(spec.directory)
        if spec.env.get("PATH") != HIDDEN:
            find_program(spec.command[0], directory, {**os.environ, **spec.env})
    except StartFailed as error:
        return str(error)
    return None
