"""A real browser: a cold visit, the waiting page, arrival, failure and retry, and the demo's WebSocket."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright
from tests.system.lair import SOURCE, Lair
from tests.system.site import IDENTITY

pytestmark = pytest.mark.system

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync"]
ARRIVAL = 15_000
"""Milliseconds within which a page must have arrived."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium."""
    program = shutil.which("chromium")
    assert program, "bin/setup --dev installs chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A window of its own, in which no script may fail."""
    page = browser.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
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


def test_a_cold_visit_waits_and_arrives(lair: Lair, page: Page, tmp_path: Path) -> None:
    """The page shows the stage and goes on by itself, to the same path, query and fragment."""
    url = slow(lair, "chrome/slow", tmp_path, 2.0).rstrip("/") + "/deep/path?and=query#fragment"
    answer = page.goto(url)
    assert answer and answer.status == 503
    expect(page.get_by_role("heading")).to_have_text("Waking up")
    expect(page.get_by_role("status")).to_contain_text("Starting")
    page.wait_for_function("document.body.innerText.includes('chrome/slow')", timeout=ARRIVAL)
    assert page.url == url
    assert '"target": "/deep/path?and=query"' in page.inner_text("body")


def test_a_fast_server_shows_no_page(lair: Lair, page: Page, tmp_path: Path) -> None:
    answer = page.goto(slow(lair, "chrome/fast", tmp_path, 0.0))
    assert answer and answer.status == 200


def test_without_javascript(lair: Lair, browser: Browser, tmp_path: Path) -> None:
    """It asks again by itself."""
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(slow(lair, "chrome/plain", tmp_path, 1.5))
    expect(page.get_by_role("heading")).to_have_text("Waking up")
    expect(page.locator("body")).to_contain_text("chrome/plain", timeout=ARRIVAL)
    expect(page.locator("body")).to_contain_text('"instance"', timeout=ARRIVAL)
    context.close()


def test_inside_an_iframe(lair: Lair, page: Page, tmp_path: Path) -> None:
    """Online IDEs embed the app: the page waits, and the app arrives, inside the frame."""
    url = slow(lair, "chrome/framed", tmp_path, 1.5)
    page.set_content(f'<iframe src="{url}" width=800 height=500></iframe>')
    frame = page.frame_locator("iframe")
    expect(frame.get_by_role("heading")).to_have_text("Waking up")
    expect(frame.locator("body")).to_contain_text('"instance"', timeout=ARRIVAL)


def test_a_failure_is_shown_and_tried_again(lair: Lair, page: Page, tmp_path: Path) -> None:
    """Why, the last log lines as text, and a way to try again: once it can start, the app arrives."""
    program = f"'{sys.executable}' -S -E '{IDENTITY}' \"$PORT\" . chrome/broken"
    script = f"test -e works || {{ echo '<b>no database</b>' >&2; exit 3; }}; exec {program}"
    lair.cli("create", "chrome/broken", "--dir", str(tmp_path), "--", "sh", "-c", script)
    page.goto(lair.url("chrome/broken", "/deep?and=query"))
    expect(page.get_by_role("heading")).to_have_text("This server did not start")
    expect(page.get_by_role("alert")).to_contain_text("code 3")
    expect(page.locator("pre")).to_contain_text("<b>no database</b>")
    for _ in range(4):  # the next try is far away by now
        lair.cli("start", "chrome/broken", check=False)
    page.reload()
    expect(page.locator("#left")).not_to_have_text("1")
    (tmp_path / "works").touch()
    page.get_by_role("button", name="Try again now").click()
    expect(page.locator("body")).to_contain_text('"instance"', timeout=ARRIVAL)
    assert page.url == lair.url("chrome/broken", "/deep?and=query")


def test_an_unknown_host(lair: Lair, page: Page) -> None:
    page.goto(lair.url("nobody--knows.localhost"))
    expect(page.get_by_role("heading")).to_have_text("Nothing is here yet")


def test_the_demo(lair: Lair, page: Page) -> None:
    """The clock ticks over its WebSocket."""
    clock = SOURCE.parent / "examples" / "clock"
    lair.cli("create", "chrome/clock", "--dir", str(clock), "--", sys.executable, "app.py", "{port}")
    page.goto(lair.url("chrome/clock"))
    time = page.locator("time, #time, output").first
    expect(time).to_have_text(re.compile(r"\d\d:\d\d:\d\d"), timeout=ARRIVAL)
    first = time.inner_text()
    expect(time).not_to_have_text(first, timeout=ARRIVAL)
