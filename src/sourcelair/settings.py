"""Every setting, its unit and its default. The reference page is made from these descriptions.

Each source overrides the one before it: defaults, `lair.toml` (in the working directory, or `LAIR_CONFIG`),
`LAIR_*` environment variables, command line flags.
"""

from __future__ import annotations

import difflib
import os
import re
import socket
import tomllib
from collections.abc import Iterable, Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from sourcelair.errors import InvalidInput
from sourcelair.names import WILDCARD, normalise_host


def split_address(value: str) -> tuple[str, int]:
    """Split `host:port` (or `[::1]:port`) into host and port.

    Raises:
        ValueError: it has no port, or one outside 1 to 65535, or a host that is none.
    """
    host, _, port = value.rpartition(":")
    if not host or not _PORT.fullmatch(port) or not 0 < int(port) < 65536:
        raise ValueError(f"{value[:80]!r} is not an address: write host:port, such as 127.0.0.1:8080")
    return _host(host).strip("[]"), int(port)


def _host(value: str) -> str:
    """Return a host name or address as one that may stand in a configuration file, or raise ValueError."""
    try:
        host = normalise_host(value)
    except InvalidInput as error:
        raise ValueError(error.detail) from error
    if host == WILDCARD:
        raise ValueError(f"{value!r} is not a host")
    return host


def _address(value: str) -> str:
    split_address(value)
    return value


def _domain(value: str) -> str:
    if ":" in value:
        raise ValueError(f"{value[:80]!r} has a port: that is part of listen, or public_port")
    return _host(value)


def split_port_range(value: str) -> tuple[int, int]:
    """Split `LOW-HIGH` into the first and the last port.

    Raises:
        ValueError: it is not two ports from 1 to 65535 in this order.
    """
    low, _, high = value.partition("-")
    if not (_PORT.fullmatch(low) and _PORT.fullmatch(high) and 0 < int(low) <= int(high) < 65536):
        raise ValueError(f"{value[:80]!r} is not a range of ports: write LOW-HIGH, such as 20000-29999")
    return int(low), int(high)


def _port_range(value: str) -> str:
    split_port_range(value)
    return value


def _networks(value: object) -> object:
    """Split text at commas, as an environment variable gives it, and check each range."""
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",") if part.strip()]
    if isinstance(value, list):
        for each in value:
            try:
                ip_network(each, strict=False)
            except ValueError as error:
                raise ValueError(f"{str(each)[:80]!r} is not a range such as 10.0.0.0/8") from error
    return value


def _path(value: Path) -> Path:
    return value.expanduser().absolute()


_PORT = re.compile(r"[0-9]{1,5}")
_NODE = r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$"

Address = Annotated[str, AfterValidator(_address)]
Host = Annotated[str, AfterValidator(_host)]
Domain = Annotated[str, AfterValidator(_domain)]
PortRange = Annotated[str, AfterValidator(_port_range)]
Networks = Annotated[list[str], NoDecode, BeforeValidator(_networks)]
Seconds = Annotated[float, Field(allow_inf_nan=False)]
Directory = Annotated[Path, AfterValidator(_path)]


def default_data_dir() -> Path:
    """Return where data lies when nobody said: `$XDG_DATA_HOME/sourcelair`."""
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "sourcelair"


class Settings(BaseSettings):
    """All settings of the three services and of `lair up`."""

    model_config = SettingsConfigDict(env_prefix="LAIR_", extra="forbid", env_ignore_empty=True, validate_default=True)

    data_dir: Directory = Field(
        default_factory=default_data_dir, description="Where everything durable lies (mode 0700)."
    )
    store: str = Field(
        "",
        description="Where routes, servers and tokens are kept: files of the data directory (SQLite) if empty, or "
        "`etcd://HOST:2379,HOST:2379/PREFIX`, with `?ca=FILE&cert=FILE&key=FILE` for TLS and "
        "`?user=NAME&password_file=FILE`.",
    )
    listen: Address = Field("127.0.0.1:8080", description="Public address: where visitors reach NGINX.")
    api_listen: Address = Field("127.0.0.1:7070", description="Address of all APIs.")
    domain: Domain = Field("localhost", description="Servers get the URL {project}--{owner}.{domain}.")
    public_scheme: Literal["http", "https"] = Field(
        "http", description="Scheme of the printed URLs: https behind a TLS terminator."
    )
    public_port: int | None = Field(
        None, ge=1, le=65535, description="Port of the printed URLs, where it is not the one of listen."
    )
    demo: bool = Field(True, description="Create the two sample projects at the first start.")
    token: str | None = Field(
        None, description="Token that the CLI sends; DATA_DIR/admin.token where unset.", repr=False
    )
    log_format: Literal["auto", "console", "json"] = Field(
        "auto", description="console, json, or auto (console on a terminal)."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="debug, info, warning or error."
    )

    node: str = Field(
        "local",
        pattern=_NODE,
        description="Name of this proxy node; with a store in etcd this machine's name unless you say another.",
    )
    nginx_workers: int = Field(2, ge=1, le=256, description="NGINX worker processes.")
    nginx_program: str | None = Field(None, description="Path of the nginx program, where it is not on PATH.")
    trusted_proxies: Networks = Field([], description="CIDR ranges of proxies whose X-Forwarded-* headers count.")
    route_table_bytes: int = Field(64 << 20, ge=1 << 20, description="Shared memory for routes, in bytes.")
    held_per_host: int = Field(2500, ge=1, description="Requests that may be held for one host (or path), on one node.")
    held_total: int = Field(8000, ge=1, description="Requests that may be held in all, on one node.")
    held_bytes_per_host: int = Field(
        256 << 20, ge=0, description="Bytes of bodies, read already, that may be held for one host; one may be larger."
    )
    held_bytes_total: int = Field(1 << 30, ge=0, description="Bytes of such bodies that may be held in all.")
    request_header_bytes: int = Field(
        32 << 10, ge=1 << 10, le=1 << 20, description="Bytes that a visitor's longest header may have."
    )
    answer_header_bytes: int = Field(
        16 << 10, ge=4 << 10, le=1 << 20, description="Bytes that the headers of an app's answer may have."
    )
    patience: Seconds = Field(
        0.8, ge=0, le=3600, description="Seconds a browser navigation is held before the waiting page."
    )
    wake_timeout: Seconds = Field(60.0, gt=0, le=3600, description="Seconds that other requests are held before a 504.")
    stream_timeout: Seconds = Field(3600.0, gt=0, description="Seconds of silence that a WebSocket or stream may have.")
    read_timeout: Seconds = Field(3600.0, gt=0, description="Seconds without a byte from an app before a 504.")
    served_wait: Seconds = Field(
        2.0, ge=0, description="Seconds that a route write waits until all live nodes serve it."
    )
    node_lease: Seconds = Field(10.0, gt=0, description="Seconds after which a node that says nothing is silent.")
    access_log: bool = Field(True, description="Write one JSON line a request to DATA_DIR/logs/access.log.")
    access_log_max_bytes: int = Field(
        100 << 20, ge=1 << 16, description="Bytes of access.log before it is rotated; three older ones are kept."
    )
    resolve_interval: Seconds = Field(
        30.0, gt=0, description="Seconds between look-ups of host names in targets and wakers."
    )

    advertise_address: Host | None = Field(None, description="Address in the targets of this machine's servers.")
    port_range: PortRange = Field("20000-29999", description="Ports for servers, outside the kernel's ephemeral range.")
    start_timeout: Seconds = Field(60.0, gt=0, description="Seconds a server has from start to its first answer.")
    drain_timeout: Seconds = Field(
        30.0, ge=0, description="Seconds that an explicit stop waits for requests in flight."
    )
    idle_drain_timeout: Seconds = Field(2.0, gt=0, description="Seconds in which all nodes must agree to an idle stop.")
    stop_grace: Seconds = Field(10.0, ge=0, description="Seconds between SIGTERM and SIGKILL.")
    port_cooldown: Seconds = Field(2.0, ge=0, description="Seconds a port rests: longer than idle pooled connections.")
    log_max_bytes: int = Field(10 << 20, ge=1 << 16, description="Bytes of one server's log before it is rotated.")

    idle_timeout: Seconds = Field(900.0, gt=0, description="Seconds without activity after which a server sleeps.")
    warn_before: Seconds = Field(60.0, ge=0, description="Seconds before sleep at which its visitors are warned.")
    longest_extension: Seconds = Field(
        3600.0, ge=0, description="Seconds for which a visitor may ask to keep a server awake; 0 for not at all."
    )
    check_timeout: Seconds = Field(5.0, gt=0, description="Seconds that an app has to answer the check before sleep.")
    start_tries: int = Field(
        8,
        ge=1,
        le=1000,
        description="Starts that fail in a row before only a person, or another spec, makes the next one.",
    )
    max_starting: int = Field(
        8, ge=1, description="Servers whose start may be in its first 5 seconds at once; owners take turns."
    )
    max_starting_per_owner: int = Field(6, ge=1, description="Of those, servers of one owner.")
    wake_queue: int = Field(2000, ge=1, description="Servers that may wait for their turn to start.")
    wake_queue_per_owner: int = Field(500, ge=1, description="Of those, servers of one owner.")
    starts_per_minute: int = Field(3000, ge=1, description="Starts a minute that visits may cause, in all.")
    starts_per_minute_per_owner: int = Field(600, ge=1, description="Of those, of one owner's servers.")
    starts_per_minute_per_address: int = Field(
        60, ge=1, description="Of those, caused from one address; loopback addresses are not counted."
    )
    memory_reserve: float = Field(
        0.1, ge=0, lt=1, description="Part of this machine's memory; with less available, dozing servers are stopped."
    )
    pages_dir: Directory | None = Field(
        None, description="Folder of your own pages: PROJECT--OWNER.html, OWNER.html, default.html (Jinja2)."
    )

    @model_validator(mode="after")
    def _name_node(self) -> Self:
        """Name the node after its machine where there may be others."""
        if self.store and "node" not in self.model_fields_set and re.match(_NODE, name := socket.gethostname()):
            self.node = name
        return self


NO_SETTINGS = frozenset({"LAIR_CONFIG", "LAIR_DEBUG", "LAIR_INSTANCE", "LAIR_INSTALLATION", "LAIR_URL", "LAIR_API"})
"""Variables of ours that are no settings: where lair.toml lies, tracebacks on demand, and what instances are told."""

TEST_PREFIX = "LAIR_TEST_"
"""Variables with this prefix are for tests, and are no settings either."""


def load_settings(flags: dict[str, Any] | None = None) -> Settings:
    """Read all sources and return the settings.

    Args:
        flags: what the command line gave; values of None count as not given.

    Raises:
        InvalidInput: a value is wrong, a setting is not known, or `lair.toml` can't be read. One line that names the
            setting the way it was written (`--listen`, `LAIR_LISTEN`, or `listen in lair.toml`), never its secret.
    """
    given = {key: value for key, value in (flags or {}).items() if value is not None}
    config = Path(os.environ.get("LAIR_CONFIG") or "lair.toml")
    from_file = _read_config(config)
    _refuse_unknown_variables()

    class _Loaded(Settings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return (init_settings, env_settings, InitSettingsSource(settings_cls, from_file))

    try:
        return _Loaded(**given)
    except ValidationError as error:
        raise InvalidInput(_problem(error, given, config)) from error
    except RuntimeError as error:  # pathlib: this user has no home directory
        raise InvalidInput(f"data_dir: {error} Give --data-dir or LAIR_DATA_DIR.") from error


def _read_config(config: Path) -> dict[str, Any]:
    """Return what lair.toml says; only one that LAIR_CONFIG names must exist."""
    try:
        return tomllib.loads(config.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        if "LAIR_CONFIG" not in os.environ:
            return {}
        raise InvalidInput(f"{config}: there is no such file (LAIR_CONFIG names it).") from error
    except OSError as error:
        raise InvalidInput(f"{config}: {error.strerror}.") from error
    except ValueError as error:  # not TOML, or not UTF-8
        raise InvalidInput(f"{config}: not valid TOML: {error}.") from error


def _refuse_unknown_variables() -> None:
    known = {f"LAIR_{name.upper()}" for name in Settings.model_fields} | NO_SETTINGS
    for name in sorted(os.environ):
        if name.startswith("LAIR_") and name not in known and not name.startswith(TEST_PREFIX):
            raise InvalidInput(f"{name}: there is no such setting{_closest(name, known)}")


def _closest(name: str, known: Iterable[str]) -> str:
    found = difflib.get_close_matches(name, sorted(known), 1)
    return f"; did you mean {found[0]}?" if found else "."


def _problem(error: ValidationError, flags: Mapping[str, Any], config: Path) -> str:
    """Return the first mistake in one line, named the way that its author wrote it."""
    first = error.errors(include_url=False, include_context=False)[0]
    name = str(first["loc"][0])
    name = name if name.isprintable() else repr(name)
    if name in flags:
        where = f"--{name.replace('_', '-')}"
    elif os.environ.get(f"LAIR_{name.upper()}"):
        where = f"LAIR_{name.upper()}"
    else:
        where = f"{name} in {config}"
    if first["type"] == "extra_forbidden":
        return f"{where}: there is no such setting{_closest(name, Settings.model_fields)}"
    return f"{where}: {str(first['msg']).removeprefix('Value error, ').rstrip('.')}."
