"""What lies in `deploy/` is true: `lair` takes the command lines, the settings exist, and the page names all files."""

from __future__ import annotations

import configparser
import ipaddress
import re
import shlex
import string
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from sourcelair.cli.app import app
from sourcelair.cli.parts import CeryxRole
from sourcelair.settings import NO_SETTINGS, Settings, load_settings, split_address

DEPLOY = Path(__file__).parents[1] / "deploy"
PAGE = DEPLOY.parent / "docs" / "many-machines.md"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
LAIR = "/opt/sourcelair/.venv/bin/python -m sourcelair.cli"
"""In units: `bin/lair` would set up what is missing first, which is not for a service to do."""

SERVICES = {name: it for name, it in COMPOSE["services"].items() if it["image"] == "sourcelair" and "command" in it}


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an empty directory, without the variables of whoever runs the tests."""
    import os

    for name in list(os.environ):
        if name.startswith("LAIR_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("LAIR_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)


def read_env(path: Path) -> dict[str, str]:
    """What systemd reads from an EnvironmentFile."""
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def read_unit(path: Path) -> configparser.ConfigParser:
    unit = configparser.ConfigParser(interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(path.read_text())
    return unit


def parse(command: list[str]) -> tuple[str, dict[str, Any]]:
    """Read a command line as `lair` does, without running it; a mistake is an error."""
    group: Any = typer.main.get_command(app)
    context = group.make_context("lair", list(command))
    name, found, rest = group.resolve_command(context, [*context._protected_args, *context.args])
    return name, found.make_context(name, rest, parent=context).params


def settings_of(command: list[str], env: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The settings with which a command line would run."""
    for name, value in env.items():
        if name != "LAIR_DATA_DIR":  # not one of this machine
            monkeypatch.setenv(name, value)
    name, given = parse(command)
    assert name in {"ceryx", "api", "hemera"}
    assert name != "ceryx" or given["role"] in {CeryxRole.API, CeryxRole.PROXY}
    return load_settings({key: value for key, value in given.items() if key in Settings.model_fields})


def check(settings: Settings, command: list[str]) -> None:
    """It shares a store; its APIs, or its visitors' address, can be reached from other machines."""
    assert settings.store.startswith("etcd://")
    host, _ = split_address(settings.listen if "proxy" in command else settings.api_listen)
    assert host != "localhost" and not (host[0].isdigit() and ipaddress.ip_address(host).is_loopback)


def test_wrong_command_lines_are_found() -> None:
    """Else the tests below would pass whatever stands there."""
    for wrong in (["ceryx", "--role", "nginx"], ["hemera", "--lisen", "x"], ["apis"]):
        with pytest.raises(Exception, match=r"nginx|lisen|apis"):
            parse(wrong)


@pytest.mark.parametrize("name", SERVICES)
def test_each_container_runs_what_lair_takes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    command = shlex.split(SERVICES[name]["command"])
    check(settings_of(command, SERVICES[name]["environment"], monkeypatch), command)


def test_there_are_two_of_each() -> None:
    """And those that act for the same servers see the same processes, addresses and files."""
    kinds = sorted(shlex.split(it["command"])[0] + it["command"].rpartition(" ")[2] for it in SERVICES.values())
    assert [kinds.count(kind) for kind in sorted(set(kinds))] == [2, 2, 2, 2]
    first, second = SERVICES["api-1"], SERVICES["api-2"]
    for shared in ("pid", "network_mode", "volumes"):
        assert first[shared] == second[shared]
    assert first["environment"]["LAIR_API_LISTEN"] != second["environment"]["LAIR_API_LISTEN"]
    machine = COMPOSE["services"]["machine"]
    assert first["environment"]["LAIR_ADVERTISE_ADDRESS"] == machine["networks"]["default"]["ipv4_address"]
    others = [it["volumes"] for name, it in SERVICES.items() if not name.startswith("api-")]
    assert len({str(volumes) for volumes in others}) == len(others), "each has a data directory of its own"


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.stem)
def test_each_unit_runs_what_lair_takes(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    service = read_unit(path)["Service"]
    assert service["EnvironmentFile"] == "/etc/sourcelair/lair.env"
    env = read_env(DEPLOY / "systemd" / "lair.env")
    lair, *command = shlex.split(string.Template(service["ExecStart"]).substitute(env).replace(LAIR, "lair"))
    assert lair == "lair"
    check(settings_of(command, env, monkeypatch), command)


def test_units_that_leave_something_running() -> None:
    """NGINX and project servers outlive their unit: nothing may be taken from them when it is restarted."""
    for path in UNITS:
        service = read_unit(path)["Service"]
        assert service["Restart"] == "always" and service["User"] == "lair"
        leaves = path.stem in {"lair-ceryx-proxy", "lair-api"}
        assert (service.get("KillMode") == "process") is leaves
        assert not (leaves and service.get("PrivateTmp") == "yes")


def test_units_on_one_machine_have_a_port_each() -> None:
    ports = [port for path in UNITS for port in re.findall(r"--api-listen \S+:(\d+)", path.read_text())]
    assert len(ports) == len(set(ports)) == len(UNITS) - 1  # a proxy node opens no API


@pytest.mark.parametrize("path", [PAGE, *sorted(path for path in DEPLOY.rglob("*") if path.is_file())], ids=str)
def test_variables_are_settings(path: Path) -> None:
    known = {f"LAIR_{name.upper()}" for name in Settings.model_fields} | NO_SETTINGS
    assert set(re.findall(r"LAIR_[A-Z_]+", path.read_text())) <= known


def test_the_page_names_all_files() -> None:
    page = PAGE.read_text()
    for path in DEPLOY.rglob("*"):
        assert path.is_dir() or path.name in page, path
