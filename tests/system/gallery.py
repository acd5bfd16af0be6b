"""Every kind of page as a browser shows it, without a server behind it: for its looks, and for who can't see them.

`python -m tests.system.gallery` makes the pictures of the documentation anew, in docs/images.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from playwright.sync_api import Browser, Page, Route, sync_playwright

from sourcelair.hemera.pages import builtin, facts
from sourcelair.hemera.pages.facts import Facts

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync"]

IMAGES = Path(__file__).parents[2] / "docs" / "images"

HOST = "shop--ada.localhost"

LOG = [
    "> shop@2.4.0 start", "> node server.js --port 20007", "", "[info] reading 214 routes",
    "[info] migrating the database: 3 of 12", "[info] migrating the database: 7 of 12",
]  # fmt: skip

_STARTING = Facts("starting", HOST, stage="starting", said="Starting up.", elapsed=4.0, usual=9.0)
_FAILED = Facts("failed", HOST, said="It exited with code 1.", failed_at="2026-01-01T07:30:00Z", retry=12)

PAGES: dict[str, Facts] = {
    "queued": replace(_STARTING, stage="queued", said="Waiting for its turn: place 3.", place=3, elapsed=2.0),
    "starting": _STARTING,
    "log": _STARTING,
    "listening": replace(_STARTING, stage="listening", said="It is up, and gets ready for you.", elapsed=11.0),
    "failed": replace(
        _FAILED,
        log=[
            "Traceback (most recent call last):",
            '  File "app.py", line 12, in <module>',
            "    database = connect(os.environ['DATABASE_URL'])",
            "ConnectionRefusedError: is the database running on 10.0.0.5?",
        ],
    ),
    "given-up": replace(_FAILED, said="It did not listen on port 20004 within 60 s.", retry=None, given_up=True),
    "disabled": Facts("disabled", HOST, said="Its owner has switched it off. Visiting does not wake it."),
    "unknown-host": facts.down(None, HOST, "/"),
    "rate-limited": facts.rate_limited(None, HOST, "/", 12),
}


def told(shown: Facts, **changes: object) -> dict[str, object]:
    """What its stream says, where nothing has changed but what is given."""
    keys = ("stage", "said", "place", "elapsed", "usual", "changed")
    return {
        "state": shown.state,
        "page": shown.state,
        "go": False,
        **{key: getattr(shown, key) for key in keys},
        **changes,
    }


def event(name: str, data: object) -> str:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n"


@contextmanager
def browser() -> Iterator[Browser]:
    """Debian's Chromium."""
    program = shutil.which("chromium")
    assert program, "bin/setup --dev installs chromium"
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=program, args=FLAGS)
        yield found
        found.close()


def hang(page: Page, name: str, **changes: object) -> None:
    """Show one of the pages in a window, with a stream that says what the page itself says, but for some changes."""
    shown = PAGES[name]

    def answer(route: Route) -> None:
        if route.request.url.endswith("/.hemera/events"):
            body = event("state", told(shown, **changes)) + (
                event("log", {"run": "a", "first": 0, "lines": LOG}) if name == "log" else ""
            )
            return route.fulfill(content_type="text/event-stream", body=body)
        headers = {"Content-Security-Policy": builtin.POLICY, "Content-Type": "text/html; charset=utf-8"}
        return route.fulfill(status=503, headers=headers, body=builtin.render(shown))

    page.route("**/*", answer)
    page.goto(f"http://{HOST}/")
    page.locator("main").wait_for()
    if name == "log":
        page.locator("#log").wait_for()


def main() -> None:
    """Make the pictures."""
    pictures = {
        "waiting-page": ("log", "light", 800, 740),
        "waiting-page-dark": ("starting", "dark", 800, 520),
        "waiting-page-phone": ("queued", "light", 360, 520),
        "failure-page": ("failed", "light", 800, 740),
        "disabled-page": ("disabled", "dark", 800, 420),
    }
    with browser() as found:
        for file, (name, scheme, width, height) in pictures.items():
            page = found.new_page(
                color_scheme=scheme,  # type: ignore[arg-type]
                viewport={"width": width, "height": height},
                reduced_motion="reduce",
                locale="en-GB",
                timezone_id="UTC",
            )
            hang(page, name)
            page.screenshot(path=IMAGES / f"{file}.png")
            page.close()


if __name__ == "__main__":
    main()
