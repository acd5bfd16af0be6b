"""`lair doctor` while the control plane is down, or frozen: what is ours is never told to be stopped."""

from __future__ import annotations

import http.server
import json
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.cli.conftest import Api, Done, Run

from sourcelair.ceryx.nginx.processes import boot_id, start_time
from sourcelair.servers.drivers.process import abilities


class Unknown(http.server.BaseHTTPRequestHandler):
    """Answers as NGINX does for a host that nobody has."""

    def do_GET(self) -> None:
        self.send_error(503)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def serving(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The visitors' address, on which this process listens and answers."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Unknown) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        address = f"127.0.0.1:{server.server_address[1]}"
        monkeypatch.setenv("LAIR_LISTEN", address)
        yield address
        server.shutdown()
        thread.join()


@pytest.fixture
def frozen(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The API's address, on which this process listens and never answers."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        monkeypatch.setenv("LAIR_API_LISTEN", address)
        monkeypatch.setattr("sourcelair.cli.checks.TIMEOUT", 0.3)
        yield address


def is_our_nginx(data_dir: Path, **changes: Any) -> None:
    """Note this process as the NGINX of a data directory, as its engine would."""
    state = {"schema": 1, "pid": os.getpid(), "start": start_time(os.getpid()), "boot_id": boot_id(), **changes}
    (data_dir / "nginx").mkdir(parents=True)
    (data_dir / "nginx" / "engine.json").write_text(json.dumps(state))


def findings(done: Done, subject: str) -> list[tuple[str, str]]:
    return [(one["status"], one["detail"]) for one in json.loads(done.out) if one["subject"] == subject]


def test_our_own_nginx_is_not_in_the_way(lair: Run, tmp_path: Path, serving: str) -> None:
    """The control plane is down: NGINX goes on, which is said, and visitors are looked after all the same."""
    is_our_nginx(tmp_path / "data")
    done = lair("doctor", "--json")
    ports = findings(done, "ports")
    assert ports[0] == ("ok", f"{serving}: our NGINX serves; `lair up` takes it over (process {os.getpid()}).")
    assert findings(done, "visitors") == [("ok", f"NGINX answers at {serving} (503 for an unknown host).")]
    assert "Stop that program" not in done.out


def test_visitors_come_to_where_a_proxy_node_runs(lair: Run, api: Api, tmp_path: Path, serving: str) -> None:
    """Where only other parts run nobody is looked for; where a node runs beside them, it is."""
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    (data_dir / "running-api-1.json").write_text('{"process": 1, "api_listen": "127.0.0.1:1", "domain": "localhost"}')
    api.answer("GET", "/readyz", {"parts": {}})
    assert findings(lair("doctor", "--json"), "visitors") == [
        ("note", "No proxy node runs here: they come to other machines.")
    ]
    (data_dir / "running-ceryx-proxy-1.json").write_text(json.dumps({"process": os.getpid(), "listen": serving}))
    assert findings(lair("doctor", "--json"), "visitors") == [
        ("ok", f"NGINX answers at {serving} (503 for an unknown host).")
    ]
    (data_dir / "running-api-1.json").unlink()
    done = lair("doctor", "--json")
    assert [status for status, _ in findings(done, "visitors") + findings(done, "control plane")] == ["ok", "note"]


def test_what_the_driver_can_enforce_is_told(lair: Run) -> None:
    """Here and now, where nothing runs that could say it better."""
    has = abilities.possible()
    ((status, detail),) = findings(lair("doctor", "--json"), "driver")
    assert status == ("note" if abilities.lacking(has) else "ok")
    assert detail == " ".join(abilities.describe(has).values())


def test_another_program_is_in_the_way(lair: Run, tmp_path: Path, serving: str) -> None:
    """Also where an NGINX of ours ran once: before the machine was started again, or as another process."""
    assert findings(lair("doctor", "--json"), "ports")[0][0] == "fail"
    is_our_nginx(tmp_path / "data", start=1)
    done = lair("doctor", "--json")
    ((status, detail), _) = findings(done, "ports")
    assert status == "fail" and "Stop that program" in detail
    assert findings(done, "visitors") == []


def test_an_nginx_of_ours_on_another_port_is_not_who_is_in_the_way(
    lair: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, frozen: str
) -> None:
    """What counts is who has that very port."""
    with subprocess.Popen(["sleep", "600"]) as elsewhere:
        try:
            is_our_nginx(tmp_path / "data", pid=elsewhere.pid, start=start_time(elsewhere.pid))
            monkeypatch.setenv("LAIR_LISTEN", frozen)
            done = lair("doctor", "--json")
        finally:
            elsewhere.kill()
    assert findings(done, "ports")[0][0] == "fail"


def test_a_frozen_control_plane_is_not_in_its_own_way(lair: Run, tmp_path: Path, serving: str, frozen: str) -> None:
    """What is wrong is said once, by the check of the control plane."""
    is_our_nginx(tmp_path / "data")
    (tmp_path / "data" / "lair.lock").write_text(str(os.getpid()))
    done = lair("doctor", "--json")
    assert [status for status, _ in findings(done, "ports")] == ["ok", "ok"]
    ((status, detail),) = findings(done, "control plane")
    assert status == "fail" and frozen in detail
    assert "ReadTimeout" in detail, "why, and no empty brackets"


def test_looking_changes_nothing(lair: Run, tmp_path: Path) -> None:
    assert lair("doctor").code == 6
    assert not (tmp_path / "data").exists()


def test_a_broken_page_is_named_with_its_line(lair: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAIR_PAGES_DIR", str(tmp_path / "pages"))
    assert findings(lair("doctor", "--json"), "pages") == [
        ("warn", f"{tmp_path / 'pages'}: No such file or directory.")
    ]
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages" / "default.html").write_text("<p>\n{{ hosst }}")
    assert findings(lair("doctor", "--json"), "pages") == [("warn", "default.html, line 2: 'hosst' is undefined.")]
    (tmp_path / "pages" / "default.html").write_text("<p>\n{{ host }}")
    assert findings(lair("doctor", "--json"), "pages") == [("ok", f"The templates in {tmp_path / 'pages'} work.")]
