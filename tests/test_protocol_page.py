"""The page of the protocol names the tests that prove it: each of them is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs" / "protocol.md"


def named() -> list[tuple[str | None, str | None]]:
    """Return what the page names: a file and a test in it, either of which may be left out."""
    found: list[tuple[str | None, str | None]] = []
    for words in re.findall(r"`([^`\s]+)`", PAGE.read_text().split("## What proves it")[1]):
        match = re.fullmatch(r"((?:tests/)?[\w/]*\.py)?(?:::)?(test_\w+)?", words)
        if match and any(match.groups()):
            found.append((match[1], match[2]))
    return found


def test_the_page_names_tests() -> None:
    assert len(named()) > 40


@pytest.mark.parametrize(("file", "test"), named())
def test_what_is_named_is_there(file: str | None, test: str | None) -> None:
    files = [path for path in TESTS.rglob("test_*.py") if file is None or str(path).endswith(file)]
    assert files, f"there is no {file}"
    if test is not None:
        assert any(f"def {test}(" in path.read_text() for path in files), f"there is no test {test} in {file}"
