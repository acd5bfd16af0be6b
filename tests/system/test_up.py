"""`lair up` and `lair down`: what starts, what stops with which signal, and what the next one takes over."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from tests.system.lair import Lair

pytestmark = pytest.mark.system

SERVE = [sys.executable, "-m", "http.server", "{port}"]
NAME = "demo/blog"


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Lair]:
    """An installation of the test's own, not started."""
    lair = Lair(tmp_path / "own")
    try:
        yield lair
    finally:
        lair.close()


def with_a_server(lair: Lair, directory: Path) -> int:
    """Create and wake a server; return its process."""
    (directory / "index.html").write_text("my blog")
    lair.cli("create", NAME, "--dir", str(directory), "--", *SERVE)
    assert lair.get(NAME).text == "my blog"
    pid: int = lair.wait_for(NAME, "awake")["instance"]["pid"]
    return pid


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def wait_for(lair: Lair, text: str, count: int = 1) -> None:
    """Wait until `lair up` has printed something."""
    deadline = time.monotonic() + 40
    while lair.output.count(text) < count:
        assert time.monotonic() < deadline, lair.output
        time.sleep(0.02)


def test_ctrl_c_stops_everything_that_was_started(own: Lair, tmp_path: Path) -> None:
    """Servers and NGINX too, and without waiting for the drain: a request in flight does not hold it up."""
    own.start()
    pid = with_a_server(own, tmp_path)
    own.cli("create", "demo/slow", "--dir", str(tmp_path), "--", sys.executable, "-c", HANGS, "{port}")
    with own.connect() as visitor:
        visitor.sendall(f"GET /hang HTTP/1.1\r\nHost: {own.host('demo/slow')}\r\n\r\n".encode())
        own.wait_for("demo/slow", "awake")
        began = time.monotonic()
        assert own.stop() == 0
        took = time.monotonic() - began
    assert took < 20, "it waited for the drain (30 s)"
    assert gone(pid)
    assert own.nginx() == []
    assert own.instances() == []
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", own.port)) != 0


HANGS = """
import sys, http.server, time
class Hang(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/hang":
            time.sleep(300)
        self.send_response(200); self.send_header("Content-Length", "0"); self.end_headers()
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Hang).serve_forever()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_who_follows_a_log_learns_of_the_end(own: Lair, tmp_path: Path, number: signal.Signals) -> None:
    """The control plane ends, in order or not: one line, and the code of what can't be reached."""
    own.start()
    with_a_server(own, tmp_path)
    follower = subprocess.Popen(
        [sys.executable, "-m", "sourcelair.cli", "logs", "-f", NAME],
        env=own.env, cwd=own.directory, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert follower.stdout is not None
        assert "GET /" in follower.stdout.readline()
        own.signal(number)
        said = follower.communicate(timeout=20)[1]
    finally:
        follower.kill()
        follower.communicate()
    assert (follower.returncode, said.count("\n")) == (5, 1), said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_sigterm_leaves_servers_and_nginx_running(own: Lair, tmp_path: Path, number: signal.Signals) -> None:
    """A restart of the control plane is no outage; the next one adopts what runs, and starts nothing twice."""
    own.start()
    pid = with_a_server(own, tmp_path)
    master = own.nginx()[0].pid
    assert own.signal(number) == 0
    assert own.get(NAME).text == "my blog"
    assert not gone(pid)
    report = own.cli("doctor", check=False).stdout
    assert "our NGINX serves; `lair up` takes it over" in report, "it is not told to be stopped"
    assert "Stop that program" not in report and "NGINX answers at" in report
    began = time.monotonic()
    own.start()
    assert time.monotonic() - began < 20
    server = own.wait_for(NAME, "awake")
    assert (server["state"], server["instance"]["pid"]) == ("awake", pid)
    assert own.nginx()[0].pid == master
    assert own.get(NAME).text == "my blog"


def test_a_second_ctrl_c_is_no_traceback(own: Lair, tmp_path: Path) -> None:
    own.start()
    with_a_server(own, tmp_path)
    own.signal(signal.SIGINT, wait=None)
    own.signal(signal.SIGINT, wait=None)
    assert own.up is not None and own.up.wait(30) in {0, 130}
    assert "Traceback" not in own.output
    assert own.nginx() == [] and own.instances() == []


STUBBORN = """
import signal, sys, http.server
signal.signal(signal.SIGTERM, signal.SIG_IGN)
http.server.test(http.server.SimpleHTTPRequestHandler, port=int(sys.argv[1]), bind="127.0.0.1")
"""


def test_a_second_ctrl_c_kills_what_takes_its_time(own: Lair, tmp_path: Path) -> None:
    """Whoever waits for a server that ignores its stop signal is told of that."""
    own.env["LAIR_STOP_GRACE"] = "300"
    own.start()
    own.cli("create", NAME, "--dir", str(tmp_path), "--", sys.executable, "-c", STUBBORN, "{port}")
    own.cli("start", NAME)
    own.signal(signal.SIGINT, wait=None)
    wait_for(own, "Ctrl-C again kills them at once")
    assert own.signal(signal.SIGINT) == 0
    assert own.instances() == []


def test_ctrl_c_while_it_starts(own: Lair) -> None:
    """Whenever it comes, nothing is left behind."""
    for delay in (0.2, 0.5, 0.8, 1.2):
        own.start(wait=False)
        time.sleep(delay)  # any moment will do
        assert own.up is not None
        own.up.send_signal(signal.SIGINT)
        own.up.wait(30)
        assert own.nginx() == []
    assert "Traceback" not in own.output


def test_two_at_once(own: Lair) -> None:
    """One data directory belongs to one control plane."""
    own.start()
    done = own.cli("up", check=False)
    assert done.returncode == 4
    assert str(own.up and own.up.pid) in done.stderr
    assert done.stderr.count("\n") == 1
    assert own.is_ready()


@pytest.mark.parametrize("setting", ["LAIR_LISTEN", "LAIR_API_LISTEN"])
def test_an_address_that_is_taken(own: Lair, setting: str) -> None:
    """One line says which, and nothing is left running."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        own.env[setting] = f"127.0.0.1:{taken.getsockname()[1]}"
        done = own.cli("up", check=False)
    assert done.returncode not in {0, 1}
    assert own.env[setting] in done.stderr
    assert "Traceback" not in done.stderr
    assert own.nginx() == []


def test_in_the_background(own: Lair, tmp_path: Path) -> None:
    """`--detach` returns when it is up; `lair down` stops everything, and says so; a second one has nothing to do."""
    facts = own.cli_json("up", "--detach")
    assert facts["listen"] == own.env["LAIR_LISTEN"]
    pid = with_a_server(own, tmp_path)
    assert own.cli("up", "--detach", check=False).returncode == 4
    assert own.cli("down").stdout == "Stopped.\n"
    assert gone(pid) and gone(facts["process"])
    assert own.nginx() == [] and own.instances() == []
    assert own.cli("down").stdout == "Nothing was running.\n"


LINGERS = """
import signal, sys, time
from pathlib import Path
from sourcelair.cli.system.directory import DataDirectory

signal.signal(signal.SIGINT, lambda *_: None)
directory = DataDirectory(Path(sys.argv[1]))
directory.prepare()
directory.lock()
print("locked", flush=True)
signal.pause()
directory.unlock()
time.sleep(1)
"""
"""A control plane that ends a second after it has let go of its lock."""


def test_down_returns_when_the_process_has_ended(own: Lair) -> None:
    """Not when its lock is free: the next command of a script may well want its ports."""
    process = subprocess.Popen(
        [sys.executable, "-c", LINGERS, str(own.data_dir)], env=own.env, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "locked\n"
        assert own.cli("down").stdout == "Stopped.\n"
        assert gone(process.pid)
    finally:
        process.kill()
        process.communicate()


def test_down_cleans_up_after_a_control_plane_that_was_killed(own: Lair, tmp_path: Path) -> None:
    own.start()
    pid = with_a_server(own, tmp_path)
    own.kill9()
    assert own.get(NAME).text == "my blog"
    assert own.cli("down").stdout == "Stopped.\n"
    assert gone(pid) and own.nginx() == []


def test_a_start_in_the_background_that_fails_says_why(own: Lair) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        own.env["LAIR_LISTEN"] = f"127.0.0.1:{taken.getsockname()[1]}"
        done = own.cli("up", "--detach", check=False)
    assert done.returncode != 0
    assert own.env["LAIR_LISTEN"] in done.stderr


def test_settings_from_file_environment_and_flags(own: Lair) -> None:
    """Each overrides the one before it."""
    for name in ("LAIR_DOMAIN", "LAIR_DEMO"):
        own.env.pop(name, None)
    (own.directory / "lair.toml").write_text('domain = "file.example"\ndemo = false\npatience = 0.3\n')
    assert own.cli_json("up", "--detach")["domain"] == "file.example"
    own.cli("down")
    own.env["LAIR_DOMAIN"] = "env.example"
    assert own.cli_json("up", "--detach")["domain"] == "env.example"
    own.cli("down")
    assert own.cli_json("up", "--detach", "--domain", "flag.example", "--no-demo")["domain"] == "flag.example"
    server = own.call("PUT", f"/api/servers/{NAME}/", {"spec": {"command": SERVE, "directory": "/tmp"}}).json()
    assert server["url"] == f"http://blog--demo.flag.example:{own.port}"
    own.cli("down")


def test_the_demo(own: Lair) -> None:
    """Two sample projects, whose URLs are printed; one that was removed does not come back."""
    own.env["LAIR_DEMO"] = "true"
    own.start()
    wait_for(own, "Go on with:")
    for name in ("demo/hello", "demo/clock"):
        assert own.url(name).rstrip("/") in own.output
        assert own.get(name).status == 200
    own.cli("rm", "demo/clock", "--yes")
    own.stop()
    own.start()
    wait_for(own, "Go on with:", 2)
    assert [server["project"] for server in own.cli_json("ls")] == ["hello"]


def test_a_first_token_is_made_and_kept(own: Lair) -> None:
    own.start()
    first = own.token
    assert own.data_dir.joinpath("admin.token").stat().st_mode & 0o777 == 0o600
    own.terminate()
    own.start()
    assert own.token == first


def test_a_data_directory_that_is_not_ours(own: Lair) -> None:
    """A file in its place, a newer version's, a read-only one: one line that says what to do."""
    own.data_dir.write_text("a file")
    done = own.cli("up", check=False)
    assert done.returncode != 0 and str(own.data_dir) in done.stderr
    assert done.stderr.count("\n") == 1


def test_healthz_and_readyz_tell_alive_from_ready(own: Lair) -> None:
    """Ready is what a visitor would see: not while NGINX is frozen."""
    own.start()
    assert own.call("GET", "/healthz", token=None).json()["status"] == "ok"
    assert all(own.call("GET", "/readyz", token=None).json()["parts"].values())


def test_the_access_log_and_the_log_are_json(own: Lair) -> None:
    own.start()
    own.get("nobody.localhost")
    access = own.data_dir / "logs" / "access.log"
    deadline = time.monotonic() + 10
    while not access.read_text() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert json.loads(access.read_text().splitlines()[0])["host"] == "nobody.localhost"
    lines = [line for line in own.output.splitlines() if line.startswith("{")]
    assert lines and all(json.loads(line)["event"] for line in lines)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_as_an_ordinary_user(own: Lair, tmp_path: Path) -> None:
    """Nothing here needs root: the whole way as somebody who owns a directory and no more."""
    # By way of a shell: setpriv itself may still read what that user may not.
    user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "sh", "-c", 'exec "$@"', "sh"]
    user += [sys.executable, "-m", "sourcelair.cli"]
    home = Path(tempfile.mkdtemp(prefix="lair-user-"))
    env = {**own.env, "LAIR_DATA_DIR": str(home / "data"), "HOME": str(home)}
    env.pop("LAIR_CONFIG")

    def lair(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*user, *arguments], env=env, cwd=home, capture_output=True, text=True, timeout=90, check=check
        )

    try:
        os.chown(home, 65534, 65534)
        if lair("--version", check=False).returncode != 0:
            pytest.skip("this checkout, or its Python, is closed to other users")
        try:
            lair("up", "--detach")
            (home / "index.html").write_text("mine")
            lair("create", NAME, "--dir", str(home), "--", *SERVE)
            assert own.get(NAME).text == "mine"
            assert lair("stop", NAME).stdout == f"{NAME} sleeps.\n"
            assert own.get(NAME).text == "mine"
            assert "trust" in lair("doctor").stdout
        finally:
            lair("down", check=False)
    finally:
        shutil.rmtree(home)


def test_a_directory_of_somebody_elses_is_left_alone(own: Lair) -> None:
    """`--data-dir /tmp` must not close /tmp to everybody else."""
    own.data_dir.mkdir(mode=0o755)
    (own.data_dir / "thesis.txt").touch()
    for command in ("up", "down"):
        done = own.cli(command, check=False)
        assert done.returncode != 0 and "directory of its own" in done.stderr
    assert own.data_dir.stat().st_mode & 0o777 == 0o755
    assert [path.name for path in own.data_dir.iterdir()] == ["thesis.txt"]
