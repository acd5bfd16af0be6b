"""Finding NGINX and its Lua module: Debian's and Ubuntu's packages, or OpenResty."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from sourcelair.errors import LairError
from sourcelair.settings import Settings

MODULE_DIRECTORIES = (Path("/usr/lib/nginx/modules"), Path("/usr/share/nginx/modules"), Path("/etc/nginx/modules"))
MODULES = ("ndk_http_module.so", "ngx_http_lua_module.so")
"""In the order in which they must be loaded."""

NAMES = ("nginx", "openresty")
PLACES = ("/usr/sbin", "/usr/local/openresty/nginx/sbin", "/usr/local/openresty/bin", "/usr/local/nginx/sbin")
ASK_TIMEOUT = 10.0
"""Seconds for `nginx -V`."""


@dataclass(frozen=True, slots=True)
class Program:
    """An NGINX that can run our configuration. `modules` are the files to load; OpenResty needs none."""

    path: Path
    version: str
    modules: tuple[Path, ...]


def _find(settings: Settings) -> Path:
    path = os.pathsep.join([os.environ.get("PATH", ""), *PLACES])
    wanted = [settings.nginx_program] if settings.nginx_program else NAMES
    for name in wanted:
        if found := shutil.which(name, path=path):
            return Path(found)
    if settings.nginx_program:
        raise LairError(f"nginx_program: there is no program {settings.nginx_program!r}.")
    raise LairError("NGINX is not installed. On Debian and Ubuntu: apt-get install nginx libnginx-mod-http-lua")


def find_program(settings: Settings) -> Program:
    """Find NGINX and what it needs.

    Raises:
        LairError: NGINX or its Lua module is missing; the message says what to install.
    """
    path = _find(settings)
    try:
        told = subprocess.run([path, "-V"], capture_output=True, text=True, timeout=ASK_TIMEOUT, check=False).stderr
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LairError(f"{path} does not run: {error}") from error
    version = told.partition("\n")[0].removeprefix("nginx version: ")
    if "openresty" in version or "lua-nginx-module" in told or "ngx_lua-" in told:
        return Program(path, version, ())
    for directory in MODULE_DIRECTORIES:
        modules = tuple(directory / name for name in MODULES)
        if all(module.exists() for module in modules):
            return Program(path, version, modules)
    raise LairError(
        f"NGINX ({path}) has no Lua module. On Debian and Ubuntu: apt-get install libnginx-mod-http-lua "
        "(or install OpenResty, and set nginx_program to its nginx)."
    )
