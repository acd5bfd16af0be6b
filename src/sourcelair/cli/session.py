"""Finding the running system: its settings, where its API answers, and the token to show there."""

from __future__ import annotations

import contextlib
import json
import os
import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sourcelair.errors import InvalidInput, LairError, Unauthorized, Unreachable

if TYPE_CHECKING:
    from sourcelair.client.ceryx import CeryxClient
    from sourcelair.client.http import ApiClient
    from sourcelair.client.servers import ServersClient
    from sourcelair.settings import Settings

_TOKEN = re.compile(r"[\x21-\x7e]+")

RUNNING = "running.json"
"""File in DATA_DIR where a running `lair up` says where it answers (no secrets)."""

PARTS_RUNNING = "running-*.json"
"""Files of processes that run a part of the system, likewise."""


PATIENCE = 10.0
"""Seconds until a command gives an API up that takes connections and says nothing; what it waits for comes on top."""


@dataclass
class Session:
    """What one command works with.

    Args:
        as_json: whether the answer is printed as JSON.
        flags: settings that the command line gave.
    """

    as_json: bool = False
    flags: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def settings(self) -> Settings:
        """All settings; the data directory as a whole path.

        Raises:
            InvalidInput: a value is wrong; the message names the setting.
        """
        from sourcelair.settings import load_settings

        settings = load_settings(self.flags)
        return settings.model_copy(update={"data_dir": settings.data_dir.expanduser().absolute()})

    @property
    def data_dir(self) -> Path:
        """Where everything durable lies."""
        return self.settings.data_dir

    @cached_property
    def processes(self) -> list[dict[str, Any]]:
        """What each process that runs on this data directory, and is still there, said of itself."""
        found = []
        for path in (self.data_dir / RUNNING, *sorted(self.data_dir.glob(PARTS_RUNNING))):
            with contextlib.suppress(OSError, ValueError):
                found.append(json.loads(path.read_text()))
        return [each for each in found if isinstance(each, dict) and _is_there(each.get("process"))]

    @property
    def running(self) -> dict[str, Any]:
        """What one of them said that has an API; empty where there is none. Any will do: each answers for all."""
        return next((each for each in self.processes if each.get("api_listen")), {})

    @property
    def listen(self) -> str | None:
        """Where visitors reach this machine: by its proxy node, else the settings. None if it runs other parts only."""
        if said := next((each["listen"] for each in self.processes if each.get("listen")), None):
            return str(said)
        return None if self.processes else self.settings.listen

    @cached_property
    def api_url(self) -> str:
        """Where the API answers: as the settings say, else as the running system does."""
        address = self.settings.api_listen
        if "api_listen" not in self.settings.model_fields_set:
            address = str(self.running.get("api_listen") or address)
        return f"http://{reachable(address)}"

    @cached_property
    def token(self) -> str:
        """The token: LAIR_TOKEN, else the file that `lair up` wrote. Never a flag: all users see arguments.

        Raises:
            InvalidInput: the data directory is none, or this can't be a token; the message says where it comes from,
                and nothing of it.
            Unauthorized: there is neither.
            Unreachable: nothing was ever started here.
        """
        if self.settings.token:
            in_environment = bool(os.environ.get("LAIR_TOKEN"))
            return _checked(self.settings.token, "LAIR_TOKEN" if in_environment else "token in lair.toml")
        path = self.data_dir / "admin.token"
        try:
            return _checked(path.read_text(errors="replace"), str(path))
        except FileNotFoundError as error:
            raise Unreachable(
                f"Nothing runs here: {self.data_dir} has no token. Start with `lair up`; "
                "if it runs elsewhere, give its --data-dir (LAIR_DATA_DIR), or a token in LAIR_TOKEN."
            ) from error
        except NotADirectoryError as error:
            raise InvalidInput(
                f"{self.data_dir} is not a directory: give another --data-dir (LAIR_DATA_DIR)."
            ) from error
        except OSError as error:
            raise Unauthorized(f"{path}: {error.strerror}. Give a token in LAIR_TOKEN.") from error

    def servers(self) -> ServersClient:
        """Return a client of the SourceLair API."""
        from sourcelair.client.servers import ServersClient

        return ServersClient(self.api_url, self.token, patience=PATIENCE)

    def ceryx(self) -> CeryxClient:
        """Return a client of Ceryx."""
        from sourcelair.client.ceryx import CeryxClient

        return CeryxClient(self.api_url, self.token, patience=PATIENCE)

    def api(self) -> ApiClient:
        """Return a client without types, for what has none."""
        from sourcelair.client.http import ApiClient

        return ApiClient(self.api_url, self.token, patience=PATIENCE)

    def explain(self, error: LairError) -> str:
        """Return the error's message with what to do next, where the error does not say it."""
        if isinstance(error, Unreachable) and "is not SourceLair" in error.detail:
            return (
                f"{error.detail} Give the address of ours with --api-listen, to `lair up` too if it is to have another."
            )
        if isinstance(error, Unreachable) and "lair up" not in error.detail:
            return f"{error.detail.rstrip('.')}. Is it running? `lair up` starts it, `lair doctor` looks for the cause."
        if isinstance(error, Unauthorized) and "LAIR_TOKEN" not in error.detail:
            return f"{error.detail} The CLI takes it from LAIR_TOKEN, or {self.data_dir / 'admin.token'}."
        return error.detail


def _is_there(process: object) -> bool:
    """Whether a process runs, as far as can be seen from here."""
    return isinstance(process, int) and Path(f"/proc/{process}").exists()


def _checked(token: str, source: str) -> str:
    """Return a token that may be sent in a header, without the white space around it that pasting adds.

    Raises:
        InvalidInput: it can't be one. Not left to the HTTP client: that one's message has the token in it.
    """
    token = token.strip()
    if not _TOKEN.fullmatch(token):
        what = "has characters that no token has: it must be printable ASCII, in one line" if token else "is empty"
        raise InvalidInput(f"The token ({source}) {what}.")
    return token


def reachable(address: str) -> str:
    """Return an address to connect to for one to listen on: an unspecified one (0.0.0.0, ::) is this machine."""
    from sourcelair.settings import split_address

    host, port = split_address(address)
    host = {"0.0.0.0": "127.0.0.1", "::": "::1", "*": "127.0.0.1"}.get(host, host)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def split_name(name: str) -> tuple[str, str]:
    """Split `owner/project`.

    Raises:
        InvalidInput: it is something else.
    """
    from sourcelair.names import check_name

    owner, slash, project = name.partition("/")
    if not slash or "/" in project:
        raise InvalidInput(f"{name[:80]!r} is not the name of a server: write owner/project, such as demo/blog.")
    return check_name("owner", owner), check_name("project", project)
