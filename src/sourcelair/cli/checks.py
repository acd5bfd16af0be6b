"""What `lair doctor` looks at, one function a subject. None of them changes anything."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sourcelair.cli.session import Session, reachable
from sourcelair.errors import LairError

LOW_SPACE, NO_SPACE = 1 << 30, 100 << 20
"""Free bytes below which the disk is worth a warning, and a failure."""

TIMEOUT = 5.0
"""Seconds that one check may take."""

INSTALL = "bin/up installs it, or: apt-get install nginx libnginx-mod-http-lua"


@dataclass(frozen=True)
class Finding:
    """One line of the report. `todo` says what to do, empty where nothing is."""

    status: Literal["ok", "note", "warn", "fail"]
    subject: str
    detail: str
    todo: str = ""


async def check_all(session: Session) -> list[Finding]:
    """Look at everything; what can't be looked at is a finding too."""
    found = [*_nginx(session), *_data_dir(session), *_user(), _driver(session), *_pages(session)]
    if session.processes and not session.running:
        elsewhere = Finding(
            "note", "control plane", "A proxy node alone runs here: ask for the rest where an API runs."
        )
        found += [elsewhere, await asyncio.to_thread(_visitors, session)]
        return found + await asyncio.to_thread(_names, session)
    control_plane = await _control_plane(session)
    found += control_plane
    if control_plane[0].status == "ok":
        found += [finding async for finding in _inside(session)]
    else:
        found += _ports(session)
    return found + await asyncio.to_thread(_names, session)


def _nginx(session: Session) -> Iterator[Finding]:
    name = session.settings.nginx_program or "nginx"
    search = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"))
    program = shutil.which(name, path=search)
    if program is None:
        yield Finding("fail", "nginx", f"{name} is not installed.", INSTALL)
        return
    try:
        done = subprocess.run([program, "-V"], capture_output=True, text=True, timeout=TIMEOUT, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        yield Finding("fail", "nginx", f"{program} can't be run: {error}.", INSTALL)
        return
    built = done.stderr
    version = built.partition("nginx version: ")[2].partition("\n")[0] or "unknown version"
    modules = Path(built.partition("--modules-path=")[2].split()[0]) if "--modules-path=" in built else None
    dynamic = modules is not None and (modules / "ngx_http_lua_module.so").exists()
    if "openresty" in version or dynamic or "lua-nginx-module" in built:
        yield Finding("ok", "nginx", f"{version} with its Lua module ({program}).")
    else:
        yield Finding("fail", "nginx", f"{version} has no Lua module ({program}).", INSTALL)


def _data_dir(session: Session) -> Iterator[Finding]:
    path = session.data_dir
    if not path.exists():
        yield Finding("note", "data", f"{path} does not exist yet.", "`lair up` makes it.")
        return
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        yield Finding("fail", "data", f"{path} is not yours.", "Give another with --data-dir or LAIR_DATA_DIR.")
        return
    free = shutil.disk_usage(path).free
    status: Literal["ok", "warn", "fail"] = "fail" if free < NO_SPACE else "warn" if free < LOW_SPACE else "ok"
    todo = "" if status == "ok" else "Free some space: a full disk stops every change."
    yield Finding(status, "data", f"{path}, {free / (1 << 30):.1f} GiB free.", todo)
    if path.stat().st_mode & 0o077:
        yield Finding("warn", "data", f"{path} is open to other users.", f"chmod 700 {path}")


def _user() -> Iterator[Finding]:
    if os.geteuid() == 0:
        detail = "You are root: servers of the process driver run as root too."
        yield Finding("note", "user", detail, "Run `lair up` as an ordinary user where you do not trust the servers.")
    else:
        yield Finding(
            "note",
            "user",
            "Without root, all servers share one trust domain with the control plane.",
            "Run only projects that you trust.",
        )


def _driver(session: Session) -> Finding:
    """What the process driver can enforce: as the running control plane says, else as one started here could."""
    from sourcelair.servers.drivers.process import abilities

    known = session.running.get("abilities")
    has = frozenset(map(str, known)) if isinstance(known, list) else abilities.possible()
    detail = " ".join(abilities.describe(has).values())
    if abilities.lacking(has):
        return Finding("note", "driver", detail, f"For all of it {abilities.HOW}.")
    return Finding("ok", "driver", detail)


def _pages(session: Session) -> Iterator[Finding]:
    """Try the operator's own pages: a visitor of a broken one sees ours."""
    folder = session.settings.pages_dir
    if folder is None:
        return
    from sourcelair.hemera.pages.own import check

    try:
        broken = check(folder)
    except OSError as error:
        yield Finding("warn", "pages", f"{folder}: {error.strerror}.", "pages_dir names a folder of templates.")
        return
    for each in broken:
        yield Finding("warn", "pages", f"{each}.", f"Mend it in {folder}: our own page is shown instead.")
    if not broken:
        yield Finding("ok", "pages", f"The templates in {folder} work.")


async def _control_plane(session: Session) -> list[Finding]:
    import httpx

    url = session.api_url
    try:
        async with httpx.AsyncClient(timeout=TIMEOUT, trust_env=False) as http:
            ready = await http.get(f"{url}/readyz")
        parts = ready.json()["parts"]
    except httpx.ConnectError:
        return [Finding("fail", "control plane", f"Nothing answers at {url}.", "Start it with `lair up`.")]
    except httpx.HTTPError as error:
        todo = "It may be overloaded or paused; see its log, or start it again."
        why = str(error) or type(error).__name__  # a timeout says nothing of itself
        return [Finding("fail", "control plane", f"{url} takes connections and does not answer ({why}).", todo)]
    except (ValueError, KeyError):
        todo = "Another program has this port: choose another with --api-listen."
        return [Finding("fail", "control plane", f"{url} answers, and is not SourceLair.", todo)]
    late = [name for name, is_ready in parts.items() if not is_ready]
    if late:
        detail, todo = f"{url} answers; not ready: {', '.join(late)}.", f"See the log in {session.data_dir / 'logs'}."
        return [Finding("ok", "control plane", f"{url} answers."), Finding("fail", "readiness", detail, todo)]
    return [Finding("ok", "control plane", f"{url} is ready.")]


async def _inside(session: Session) -> AsyncIterator[Finding]:
    """What the APIs know, and whether visitors are served."""
    yield await asyncio.to_thread(_visitors, session)
    try:
        async with session.ceryx() as ceryx, session.servers() as servers:
            nodes = await ceryx.nodes()
            known = await servers.list()
    except LairError as error:
        yield Finding("fail", "token", session.explain(error))
        return
    yield Finding("ok", "token", "The API takes your token.")
    silent = [node.node for node in nodes if node.state == "silent"]
    if silent:
        todo = f"Start it again, or, where it is dead for good: lair nodes rm {silent[0]}"
        detail = f"Silent: {', '.join(silent)}. Servers that they know can't sleep, and ports wait in quarantine."
        yield Finding("warn", "nodes", detail, todo)
    else:
        yield Finding("ok", "nodes", f"{len(nodes)} live.")
    failed = [f"{server.owner}/{server.project}" for server in known if server.state == "failed"]
    if failed:
        yield Finding("warn", "servers", f"{len(failed)} failed: {', '.join(failed[:5])}.", f"lair show {failed[0]}")
    else:
        awake = sum(server.state == "awake" for server in known)
        yield Finding("ok", "servers", f"{len(known)} known, {awake} awake, none failed.")


def _visitors(session: Session) -> Finding:
    """Visit NGINX under a host that nobody has: it must answer by itself."""
    import http.client

    from sourcelair.settings import split_address

    listen = session.listen
    if listen is None:
        return Finding("note", "visitors", "No proxy node runs here: they come to other machines.")
    host, port = split_address(reachable(listen))
    connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT)
    try:
        connection.request("GET", "/", headers={"Host": "nobody.invalid", "User-Agent": "lair-doctor"})
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        return Finding(
            "fail", "visitors", f"{listen} does not answer: {error}.", "See logs/nginx in the data directory."
        )
    finally:
        connection.close()
    return Finding("ok", "visitors", f"NGINX answers at {listen} ({status} for an unknown host).")


def _ports(session: Session) -> Iterator[Finding]:
    """Nothing answers: could it be started? What is ours has its port by right: `lair up` takes it over."""
    from sourcelair.cli.system import running
    from sourcelair.cli.system.addresses import check_free
    from sourcelair.settings import split_address

    nginx = running.nginx(session.data_dir)
    ours = {
        "listen": (nginx, "our NGINX serves; `lair up` takes it over"),
        "api_listen": (running.control_plane(session.data_dir), "`lair up` itself has it"),
    }
    for setting, (process, what) in ours.items():
        address = getattr(session.settings, setting)
        try:
            check_free(address, setting)
        except LairError as error:
            if process is not None and running.listens(process, split_address(address)[1]):
                yield Finding("ok", "ports", f"{address}: {what} (process {process}).")
            else:
                yield Finding("fail", "ports", error.detail)
        else:
            yield Finding("ok", "ports", f"{address} is free ({setting}).")
    if nginx is not None:
        yield _visitors(session)


def _names(session: Session) -> list[Finding]:
    """Whether programs (not only browsers) find the hosts."""
    domain = str(session.running.get("domain") or session.settings.domain)
    name = f"hello--demo.{domain}"
    try:
        socket.getaddrinfo(name, 80)
    except OSError:
        if domain == "localhost" or domain.endswith(".localhost"):
            detail = f"{name} works in browsers and curl, and not in Python, Node and most other programs here."
            return [Finding("note", "names", detail, "docs/how-to.md says what to do.")]
        todo = f"Add a wildcard record *.{domain} to your DNS."
        return [Finding("warn", "names", f"{name} does not resolve.", todo)]
    return [Finding("ok", "names", f"*.{domain} resolves.")]
