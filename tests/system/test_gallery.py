"""Every kind of page in a real browser: who can't see, has a small screen, or wants no motion gets all of it too."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Route, expect
from tests.system.gallery import HOST, PAGES, browser, event, hang, told

from sourcelair.hemera.pages import builtin

pytestmark = pytest.mark.system

STEADY = 3000
"""Milliseconds in which a page that is sent back to itself is watched."""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as found:
        yield found


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_nothing_keeps_anybody_out(chromium: Browser, name: str, scheme: str) -> None:
    """axe-core finds no violation: names, roles, contrast (WCAG 2.2 AA), and its own best practices."""
    page = chromium.new_page(color_scheme=scheme)  # type: ignore[arg-type]
    broken: list[str] = []
    page.on("pageerror", lambda error: broken.append(str(error)))
    page.on("console", lambda said: broken.append(said.text) if "Content Security Policy" in said.text else None)
    hang(page, name)
    tags = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
    found = Axe().run(page, options={"runOnly": tags})
    assert found.violations_count == 0, found.generate_report()
    assert broken == []
    page.close()


@pytest.mark.parametrize("name", PAGES)
def test_it_fits_a_small_phone(chromium: Browser, name: str) -> None:
    page = chromium.new_page(viewport={"width": 320, "height": 480})
    hang(page, name)
    assert page.evaluate("document.scrollingElement.scrollWidth") <= 320
    page.close()


@pytest.mark.parametrize("motion", ["reduce", "no-preference"])
def test_nothing_moves_where_that_is_not_wanted(chromium: Browser, motion: str) -> None:
    page = chromium.new_page(reduced_motion=motion)  # type: ignore[arg-type]
    hang(page, "starting")
    expect(page.locator("[aria-current=step]")).to_have_text("Starting")
    moving = page.evaluate("document.getAnimations().length")
    assert (moving == 0) == (motion == "reduce")
    page.close()


def test_light_and_dark_differ(chromium: Browser) -> None:
    colours = set()
    for scheme in ("light", "dark"):
        page = chromium.new_page(color_scheme=scheme)  # type: ignore[arg-type]
        hang(page, "starting")
        colours.add(page.evaluate("getComputedStyle(document.querySelector('main')).backgroundColor"))
        page.close()
    assert len(colours) == 2


def test_the_button_is_reached_by_keyboard(chromium: Browser) -> None:
    page = chromium.new_page()
    hang(page, "given-up")
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Try again now")).to_be_focused()
    page.close()


@pytest.mark.parametrize("says", ["awake", "failed", "broken", "nothing"])
def test_a_page_that_comes_again_and_again_does_so_slowly(chromium: Browser, says: str) -> None:
    """Whatever it is told, and where no answer can be had: a reload that leads to it again is no storm of them."""
    page, loads = chromium.new_page(), list[str]()
    shown = PAGES["starting"]

    def answer(route: Route) -> None:
        url = route.request.url
        if not url.endswith(("/.hemera/events", "/.hemera/state")):
            loads.append(url)
            # As Hemera makes it for a server that is awake by then.
            html = builtin.render(shown).replace("<html ", '<html data-late="1" ' if says == "awake" else "<html ")
            return route.fulfill(status=503, content_type="text/html", body=html)
        if says == "broken":
            return route.abort()
        now = told(shown, state=says, page="failed" if says == "failed" else "starting")
        body = event("state", now) if says != "nothing" else ""
        if url.endswith("/state"):
            return route.fulfill(content_type="application/json", body=json.dumps(now))
        return route.fulfill(content_type="text/event-stream", body=body)

    page.route("**/*", answer)
    page.goto(f"http://{HOST}/")
    page.wait_for_timeout(STEADY)
    assert len(loads) <= 1 + STEADY / 1000
    page.close()


def test_a_wake_that_nobody_asks_for_any_more_is_asked_for_again(chromium: Browser) -> None:
    page = chromium.new_page()
    page.clock.install()
    hang(page, "queued", state="asleep")
    expect(page.get_by_role("status")).to_have_text("Waiting for its turn: place 3.")
    with page.expect_request("**/.hemera/wake") as asked:
        page.clock.run_for(20_000)
    assert asked.value.method == "POST"
    page.close()


@pytest.mark.parametrize("hidden", [False, True])
def test_a_failed_start_is_tried_again_for_who_looks(chromium: Browser, hidden: bool) -> None:
    """It counts down, and comes again; a tab that nobody looks at waits until somebody does."""
    page, loads = chromium.new_page(), list[str]()
    page.add_init_script("Object.defineProperty(document, 'hidden', {get: () => window.name === 'hidden'})")
    page.clock.install()
    hang(page, "failed")
    page.evaluate("hidden => { window.name = hidden ? 'hidden' : '' }", hidden)
    page.on("request", lambda request: loads.append(request.url) if request.is_navigation_request() else None)
    left = page.locator("#left")
    expect(left).to_have_text("12 seconds")
    page.clock.run_for(5_000)
    expect(left).to_have_text("7 seconds")
    if hidden:
        page.clock.run_for(60_000)
        expect(left).to_have_text("0 seconds")
        assert loads == []
        page.evaluate("window.name = ''")
    with page.expect_navigation():
        page.clock.run_for(8_000)
    page.close()
