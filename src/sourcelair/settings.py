"""Every setting, its unit and its default. The reference page is made from these descriptions.

Each source overrides the one before it: defaults, `lair.toml` (in the working directory, or `LAIR_CONFIG`),
`LAIR_*` environment variables, command line flags.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)


def split_address(value: str) -> tuple[str, int]:
    """Split `host:port` (or `[::1]:port`) into host and port.

    Raises:
        ValueError: it has no port, or one outside 1 to 65535.
    """
    host, _, port = value.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(f"{value!r} is not an address: write host:port, such as 127.0.0.1:8080")
    return host.strip("[]"), int(port)


def _address(value: str) -> str:
    split_address(value)
    return value


Address = Annotated[str, AfterValidator(_address)]


def default_data_dir() -> Path:
    """Return where data lies when nobody said: `$XDG_DATA_HOME/sourcelair`."""
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "sourcelair"


class Settings(BaseSettings):
    """All settings of the three services and of `lair up`."""

    model_config = SettingsConfigDict(env_prefix="LAIR_", extra="forbid", validate_default=True)

    data_dir: Path = Field(default_factory=default_data_dir, description="Where everything durable lies (mode 0700).")
    listen: Address = Field("127.0.0.1:8080", description="Public address: where visitors reach NGINX.")
    api_listen: Address = Field("127.0.0.1:7070", description="Address of all APIs.")
    domain: str = Field("localhost", description="Servers get the URL {project}--{owner}.{domain}.")
    public_scheme: str = Field("http", description="Scheme of the printed URLs: https behind a TLS terminator.")
    public_port: int | None = Field(None, description="Port of the printed URLs, where it is not the one of listen.")
    demo: bool = Field(True, description="Create the two sample projects at the first start.")
    token: str | None = Field(
        None, description="Token that the CLI sends; DATA_DIR/admin.token where unset.", repr=False
    )
    log_format: str = Field("auto", description="console, json, or auto (console on a terminal).")
    log_level: str = Field("info", description="debug, info, warning or error.")

    node: str = Field("local", description="Name of this proxy node.")
    nginx_workers: int = Field(2, ge=1, le=256, description="NGINX worker processes.")
    nginx_program: str | None = Field(None, description="Path of the nginx program, where it is not on PATH.")
    trusted_proxies: list[str] = Field([], description="CIDR ranges of proxies whose X-Forwarded-* headers count.")
    route_table_bytes: int = Field(64 << 20, ge=1 << 20, description="Shared memory for routes, in bytes.")
    held_per_host: int = Field(2500, ge=1, description="Requests that may be held for one host, on one node.")
    held_total: int = Field(8000, ge=1, description="Requests that may be held in all, on one node.")
    patience: float = Field(0.8, ge=0, description="Seconds a browser navigation is held before the waiting page.")
    wake_timeout: float = Field(60.0, gt=0, description="Seconds that other requests are held before a 504.")
    stream_timeout: float = Field(3600.0, gt=0, description="Seconds of silence that a WebSocket or stream may have.")
    read_timeout: float = Field(3600.0, gt=0, description="Seconds without a byte from an app before a 504.")
    served_wait: float = Field(2.0, ge=0, description="Seconds that a route write waits until all live nodes serve it.")
    node_lease: float = Field(10.0, gt=0, description="Seconds after which a node that says nothing is silent.")
    access_log: bool = Field(True, description="Write one JSON line a request to DATA_DIR/logs/access.log.")
    resolve_interval: float = Field(30.0, gt=0, description="Seconds between look-ups of host names in targets.")

    advertise_address: str | None = Field(None, description="Address in the targets of this machine's servers.")
    port_range: str = Field("20000-29999", description="Ports for servers, outside the kernel's ephemeral range.")
    start_timeout: float = Field(60.0, gt=0, description="Seconds a server has from start to its first answer.")
    drain_timeout: float = Field(30.0, ge=0, description="Seconds that an explicit stop waits for requests in flight.")
    idle_drain_timeout: float = Field(2.0, gt=0, description="Seconds in which all nodes must agree to an idle stop.")
    stop_grace: float = Field(10.0, ge=0, description="Seconds between SIGTERM and SIGKILL.")
    port_cooldown: float = Field(2.0, ge=0, description="Seconds a port rests: longer than idle pooled connections.")
    log_max_bytes: int = Field(10 << 20, ge=1 << 16, description="Bytes of one server's log before it is rotated.")

    idle_timeout: float = Field(900.0, gt=0, description="Seconds without activity after which a server sleeps.")
    max_starting: int = Field(8, ge=1, description="Servers that may be starting at once; the rest queue.")


def load_settings(flags: dict[str, Any] | None = None) -> Settings:
    """Read all sources and return the settings.

    Args:
        flags: what the command line gave; values of None count as not given.

    Raises:
        pydantic.ValidationError: a value is wrong; its message names the setting.
    """
    config = Path(os.environ.get("LAIR_CONFIG", "lair.toml"))

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
            return (init_settings, env_settings, TomlConfigSettingsSource(settings_cls, config))

    return _Loaded(**{key: value for key, value in (flags or {}).items() if value is not None})
