"""A real browser: a cold visit, the waiting page, arrival, failure and retry, and the demo's WebSocket."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Locator, Page, expect
from tests.system import gallery
from tests.system.lair import SOURCE, Lair
from tests.system.site import IDENTITY

pytestmark = pytest.mark.system

STAGES = IDENTITY.with_name("stages.py")

ARRIVAL = 15_000
"""Milliseconds within which a page must have arrived."""

LATE = 1000
"""Milliseconds from awake until the page goes to the app that no machine may need, however busy: the promise is 100."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with gallery.browser() as found:
        yield found


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A window of its own, in which no script may fail, and nothing be refused by a policy."""
    page = browser.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda said: errors.append(said.text) if "Content Security Policy" in said.text else None)
    yield page
    page.context.close()
    assert errors == []


def slow(lair: Lair, name: str, directory: Path, delay: float) -> str:
    """Create a server that takes `delay` seconds to start, and return its URL."""
    books = directory / name.replace("/", "-")
    books.mkdir()
    program = [sys.executable, "-S", "-E", str(IDENTITY), "{port}", str(books), name]
    command = ["sh", "-c", f'sleep {delay}; exec "$@"', "sh", *program]
    lair.cli("create", name, "--dir", str(books), "--", *command)
    return lair.url(name)


class Stages:
    """A server of `apps/stages.py`, asleep, which goes on when it is told to."""

    def __init__(self, lair: Lair, name: str, directory: Path, *, show_log: bool) -> None:
        for fifo in ("listen", "answer"):
            os.mkfifo(directory / fifo)
        self.directory = directory
        command = [sys.executable, "-S", "-E", str(STAGES), "{port}", str(directory)]
        spec = {"command": command, "directory": str(directory), "wake": {"show_log": show_log}}
        answer = lair.call("PUT", f"/api/servers/{name}/", {"spec": spec})
        assert answer.status == 201, answer.text
        self.url = lair.url(name)

    def go_on(self, stage: str) -> None:
        """Let it go to the next stage: `listen`, `answer`."""
        (self.directory / stage).write_text("now")


def step(page: Page) -> Locator:
    """Return the step of the wake that the page shows as the current one."""
    return page.locator("[aria-current=step]")


def test_a_cold_visit_waits_and_arrives(lair: Lair, page: Page, tmp_path: Path) -> None:
    """The page goes on by itself, to the same path, query and fragment."""
    url = slow(lair, "chrome/slow", tmp_path, 2.0).rstrip("/") + "/deep/path?and=query#fragment"
    answer = page.goto(url)
    assert answer and answer.status == 503
    assert len(answer.body()) < 15_000
    expect(page.get_by_role("heading", level=1)).to_have_text("Waking up")
    expect(page.get_by_role("status")).to_have_text("Starting up.")
    assert Axe().run(page).violations_count == 0
    expect(page.locator("body")).to_contain_text("chrome/slow", timeout=ARRIVAL)
    assert page.url == url
    assert '"target": "/deep/path?and=query"' in page.inner_text("body")


def test_each_stage_is_shown_and_the_app_comes_at_once(lair: Lair, page: Page, tmp_path: Path) -> None:
    """Starting, listening, ready; the time goes on in between, and is not read out; and then there is the app."""
    server = Stages(lair, "chrome/stages", tmp_path, show_log=False)
    page.goto(server.url)
    expect(step(page)).to_have_text("Starting")
    page.evaluate(
        "window.spoken = 0; new MutationObserver(() => window.spoken++)"
        ".observe(document.getElementById('said'), {childList: true, characterData: true, subtree: true})"
    )
    time = page.locator("#time")
    for _ in range(2):
        expect(time).not_to_have_text(time.inner_text())
    assert page.evaluate("window.spoken") == 0
    assert page.locator("#log").is_hidden(), "its policy does not show it"
    server.go_on("listen")
    expect(step(page)).to_have_text("Connecting", timeout=ARRIVAL)
    expect(page.get_by_role("status")).to_have_text("It is up, and gets ready for you.")
    server.go_on("answer")
    expect(page.get_by_role("heading", level=1)).to_have_text("The app is here", timeout=ARRIVAL)
    awake = 1000 * lair.server("chrome/stages")["instance"]["awake_at"]
    gone, came = page.evaluate(
        "[0, performance.getEntriesByType('navigation')[0].responseStart].map(time => performance.timeOrigin + time)"
    )
    print(f"from awake: {gone - awake:.0f} ms until the page goes, {came - awake:.0f} ms until the app's first byte")
    assert gone - awake < LATE


def test_the_log_comes_as_it_is_written(lair: Lair, page: Page, tmp_path: Path) -> None:
    """As text, at its end unless somebody reads further up; and only that of this start."""
    server = Stages(lair, "chrome/log", tmp_path, show_log=True)
    page.goto(server.url)
    log = page.locator("#log pre")
    expect(log).to_contain_text("<b>waits</b> to listen", timeout=ARRIVAL)
    below = "e => e.scrollHeight - e.scrollTop - e.clientHeight"
    assert log.evaluate(below) < 2
    log.evaluate("e => e.scrollTop = 0")
    server.go_on("listen")
    expect(log).to_contain_text("listens, and is not ready", timeout=ARRIVAL)
    assert log.evaluate("e => e.scrollTop") == 0
    assert log.inner_text().count("step 0\n") == 1
    page.reload()
    expect(log).to_contain_text("listens, and is not ready", timeout=ARRIVAL)
    assert log.inner_text().count("step 0\n") == 1
    server.go_on("answer")
    expect(page.get_by_role("heading", level=1)).to_have_text("The app is here", timeout=ARRIVAL)


def test_a_hidden_tab_keeps_no_stream_open(lair: Lair, browser: Browser, tmp_path: Path) -> None:
    """Browsers open six connections to a host: tabs that nobody looks at leave them to the app, and arrive too."""
    server = Stages(lair, "chrome/hidden", tmp_path, show_log=False)
    page = browser.new_page()
    page.add_init_script("Object.defineProperty(document, 'hidden', {get: () => window.away === true})")
    with page.expect_response("**/.hemera/events"):
        page.goto(server.url)
    expect(step(page)).to_have_text("Starting")
    switch = "away => { window.away = away; document.dispatchEvent(new Event('visibilitychange')); }"
    with (
        page.expect_event("requestfailed", lambda request: "/.hemera/events" in request.url),
        page.expect_response("**/.hemera/state") as asked,
    ):
        page.evaluate(switch, True)
    assert asked.value.json()["stage"] == "starting"
    with page.expect_response("**/.hemera/events"):
        page.evaluate(switch, False)
    page.evaluate(switch, True)
    server.go_on("listen")
    server.go_on("answer")
    expect(page.get_by_role("heading", level=1)).to_have_text("The app is here", timeout=ARRIVAL)
    page.context.close()


def test_a_fast_server_shows_no_page(lair: Lair, page: Page, tmp_path: Path) -> None:
    answer = page.goto(slow(lair, "chrome/fast", tmp_path, 0.0))
    assert answer and answer.status == 200


def test_without_javascript(lair: Lair, browser: Browser, tmp_path: Path) -> None:
    """It asks again by itself."""
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(slow(lair, "chrome/plain", tmp_path, 1.5))
    expect(page.get_by_role("heading", level=1)).to_have_text("Waking up")
    expect(page.locator("body")).to_contain_text("chrome/plain", timeout=ARRIVAL)
    expect(page.locator("body")).to_contain_text('"instance"', timeout=ARRIVAL)
    context.close()


@pytest.mark.parametrize("sandbox", ["", 'sandbox="allow-scripts"'])
def test_inside_an_iframe(lair: Lair, page: Page, tmp_path: Path, sandbox: str) -> None:
    """Online IDEs embed the app, from another origin: the page waits, and the app arrives, inside the frame."""
    name = "chrome/sandboxed" if sandbox else "chrome/framed"
    url = slow(lair, name, tmp_path, 1.5)
    page.goto(lair.url("nobody--knows.localhost"))
    page.set_content(f'<iframe src="{url}" width=800 height=500 {sandbox}></iframe>')
    frame = page.frame_locator("iframe")
    expect(frame.get_by_role("heading", level=1)).to_have_text("Waking up")
    expect(frame.locator("body")).to_contain_text('"instance"', timeout=ARRIVAL)


def test_a_failure_is_shown_and_tried_again(lair: Lair, page: Page, tmp_path: Path) -> None:
    """Why, the last log lines as text, and a way to try again: once it can start, the app arrives."""
    program = f"'{sys.executable}' -S -E '{IDENTITY}' \"$PORT\" . chrome/broken"
    script = f"test -e works || {{ echo '<b>no database</b>' >&2; exit 3; }}; exec {program}"
    spec = {"command": ["sh", "-c", script], "directory": str(tmp_path), "wake": {"show_log": True}}
    assert lair.call("PUT", "/api/servers/chrome/broken/", {"spec": spec}).status == 201
    page.goto(lair.url("chrome/broken", "/deep?and=query#fragment"))
    expect(page.get_by_role("heading", level=1)).to_have_text("This server did not start")
    expect(page.get_by_role("alert")).to_contain_text("code 3")
    expect(page.locator("pre")).to_contain_text("<b>no database</b>")
    for _ in range(4):  # the next try is far away by now
        lair.cli("start", "chrome/broken", check=False)
    page.reload()
    expect(page.locator("#left")).not_to_have_text("1 second")
    assert Axe().run(page).violations_count == 0
    (tmp_path / "works").touch()
    page.get_by_role("button", name="Try again now").click()
    expect(page.locator("body")).to_contain_text('"instance"', timeout=ARRIVAL)
    assert page.url == lair.url("chrome/broken", "/deep?and=query#fragment")


def test_an_unknown_host(lair: Lair, page: Page) -> None:
    page.goto(lair.url("nobody--knows.localhost"))
    expect(page.get_by_role("heading", level=1)).to_have_text("Nothing is here yet")


def test_a_switched_off_server(lair: Lair, page: Page, tmp_path: Path) -> None:
    """It says so, and is not woken."""
    url = slow(lair, "chrome/off", tmp_path, 0.0)
    lair.cli("disable", "chrome/off")
    page.goto(url)
    expect(page.get_by_role("heading", level=1)).to_have_text("This server is switched off")
    assert lair.server("chrome/off")["state"] == "asleep"


def test_the_demo(lair: Lair, page: Page) -> None:
    """The clock ticks over its WebSocket."""
    clock = SOURCE.parent / "examples" / "clock"
    lair.cli("create", "chrome/clock", "--dir", str(clock), "--", sys.executable, "app.py", "{port}")
    page.goto(lair.url("chrome/clock"))
    time = page.locator("time, #time, output").first
    expect(time).to_have_text(re.compile(r"\d\d:\d\d:\d\d"), timeout=ARRIVAL)
    first = time.inner_text()
    expect(time).not_to_have_text(first, timeout=ARRIVAL)
