"""Pages of the operator's own: which one is taken, and that a broken one harms nobody and is reported."""

from __future__ import annotations

import time
from pathlib import Path

import jinja2
import pytest
from structlog.testing import capture_logs
from tests.hemera.world import Hemera, a_hemera

from sourcelair.hemera.pages import own
from sourcelair.hemera.pages.facts import Facts
from sourcelair.hemera.pages.own import OwnPages, check
from sourcelair.telemetry import METRICS

pytestmark = pytest.mark.anyio

TOLD = Facts("starting", "blog--demo.localhost", owner="demo", project="blog", said="Starting up.")

BROKEN = {
    "syntax": ("<h1>\n{% if %}", 2),
    "unknown": ("\n\n{{ nonsense }}", 3),
    "deep": ("{% macro m() %}{{ m() }}{% endmacro %}\n{{ m() }}", 1),
    "endless": ("{% for a in range(99999) %}\n{% for b in range(99999) %}{% endfor %}{% endfor %}", None),
    "large": ("{% for a in range(99999) %}0123456789{% endfor %}", None),
    "huge": ("\n{{ 'x' * 9999999999 }}", 2),
    "escape": ("\n{{ ''.__class__.__mro__[1].__subclasses__() }}", 2),
    "include": ("{% include '../secret.html' %}", 1),
    "bytes": ("\udcff", None),
}


def broken_now() -> float:
    value = METRICS.get_sample_value("lair_page_templates_broken")
    assert value is not None
    return value


@pytest.mark.parametrize("kind", ["default", "demo", "blog--demo"])
async def test_the_nearest_one_is_taken(tmp_path: Path, kind: str) -> None:
    names = ["default", "demo", "blog--demo"]
    for name in names[: names.index(kind) + 1]:
        (tmp_path / f"{name}.html").write_text(name + " {{ said }}")
    assert await OwnPages(tmp_path).render(TOLD) == f"{kind} Starting up."


async def test_without_any_ours_is_taken(tmp_path: Path) -> None:
    (tmp_path / "other.html").write_text("x")
    assert await OwnPages(tmp_path).render(TOLD) is None
    assert await OwnPages(tmp_path / "missing").render(TOLD) is None
    assert await OwnPages(None).render(TOLD) is None


async def test_what_is_told_is_text(tmp_path: Path) -> None:
    (tmp_path / "default.html").write_text("{{ host }}{{ log[0] }}<script>{{ script }}</script>")
    page = await OwnPages(tmp_path).render(Facts("failed", "<b>", log=["<i>"]))
    assert page
    assert page.startswith("&lt;b&gt;&lt;i&gt;<script>(() => {")


async def test_it_is_read_again_when_it_changes(tmp_path: Path) -> None:
    pages, path = OwnPages(tmp_path), tmp_path / "default.html"
    for text in ("first", "second one"):
        path.write_text(text)
        assert await pages.render(TOLD) == text
    path.unlink()
    assert await pages.render(TOLD) is None


@pytest.mark.parametrize("name", BROKEN)
async def test_a_broken_one_is_put_aside_and_reported_once(tmp_path: Path, name: str) -> None:
    """Log and metric; the checker names file, line and error. Once it is mended, it is taken again."""
    text, line = BROKEN[name]
    (tmp_path / "secret.html").write_text("secret")
    folder = tmp_path / "pages"
    folder.mkdir()
    path = folder / "default.html"
    path.write_bytes(text.encode(errors="surrogateescape"))
    pages = OwnPages(folder)
    with capture_logs() as logs:
        began = time.monotonic()
        for _ in range(5):
            assert await pages.render(TOLD) is None
        assert time.monotonic() - began < 4 * own.LONGEST_RENDER, "it is not tried at every visit"
    (entry,) = logs
    assert (entry["event"], entry["file"]) == ("page_template_broken", "default.html")
    assert line is None or entry["line"] == line
    assert broken_now() == 1
    (found,) = check(folder)
    assert found.file == "default.html"
    assert line is None or found.line == line
    assert found.error
    path.write_text("mended, and of another length")
    assert await pages.render(TOLD) == "mended, and of another length"
    assert broken_now() == 0
    assert check(folder) == []


async def test_one_that_fails_by_what_it_includes_is_tried_again(tmp_path: Path) -> None:
    now = 0.0
    pages = OwnPages(tmp_path, clock=lambda: now)
    (tmp_path / "default.html").write_text("{% include 'part.txt' %}")
    assert await pages.render(TOLD) is None
    (tmp_path / "part.txt").write_text("part")
    now = own.AGAIN + 1
    assert await pages.render(TOLD) == "part"


def test_the_checker_sees_what_shows_in_one_kind_of_page_only(tmp_path: Path) -> None:
    (tmp_path / "good.html").write_text("{{ heading }}")
    (tmp_path / "bad.html").write_text("{% if given_up %}\n{{ nonsense }}{% endif %}")
    assert [str(broken) for broken in check(tmp_path)] == ["bad.html, line 2: 'nonsense' is undefined"]


def test_the_example_of_the_documentation_works() -> None:
    text = (Path(__file__).parents[2] / "docs" / "reference" / "pages.md").read_text()
    example = text.split("```html+jinja\n")[1].split("```")[0]
    templates = own.environment(Path())
    templates.loader = jinja2.DictLoader({"default.html": example})
    for told in own._samples():
        assert told.host in own.render(templates, "default.html", told)


async def test_hemera_answers_with_it_and_with_ours_where_it_breaks(tmp_path: Path) -> None:
    folder = tmp_path / "pages"
    folder.mkdir()
    async with a_hemera(tmp_path / "data", pages_dir=folder) as hemera:
        await _answers(hemera, folder)


async def _answers(hemera: Hemera, folder: Path) -> None:
    await hemera.life.create()
    (folder / "demo.html").write_text("Ours: {{ project }}")
    page = await hemera.page()
    assert page.text == "Ours: blog"
    assert (page.status_code, page.headers["lair-state"], page.headers["cache-control"]) == (
        503,
        "starting",
        "no-store",
    )
    (folder / "demo.html").write_text("Ours: {{ project")
    page = await hemera.page()
    assert "Waking up" in page.text
    assert "content-security-policy" in page.headers
