"""The reference page of all settings, made from their descriptions: `python -m sourcelair.settings_reference`."""

from __future__ import annotations

import json
import sys
from typing import Any

from pydantic.fields import FieldInfo

from sourcelair.settings import Settings

_HEAD = """\
# Settings

<!-- Made by `python -m sourcelair.settings_reference > docs/reference/settings.md`: change the descriptions there. -->

Each source overrides the one before it: the defaults below, `lair.toml` (in the working directory, or where
`LAIR_CONFIG` says), `LAIR_*` environment variables, flags of the command line. The flag of `data_dir` is `--data-dir`,
where a command has one. An empty variable counts as not set; an unknown setting is an error.

| in `lair.toml` | variable | default | meaning |
|---|---|---|---|
"""


def render() -> str:
    """Return the page in Markdown."""
    rows = [
        f"| `{name}` | `LAIR_{name.upper()}` | {_default(name, field)} | {_meaning(field)} |"
        for name, field in Settings.model_fields.items()
    ]
    return _HEAD + "\n".join(rows) + "\n"


def _default(name: str, field: FieldInfo) -> str:
    if name == "data_dir":  # made when it is needed, and another for everybody
        return "`$XDG_DATA_HOME/sourcelair`, or `~/.local/share/sourcelair`"
    value: Any = field.default
    return "" if value is None else f"`{json.dumps(value)}`"


def _meaning(field: FieldInfo) -> str:
    return str(field.description).replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(render())
