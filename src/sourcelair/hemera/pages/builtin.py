"""The page of our own. It is one answer: its style and its script are in it, and nothing else may be loaded or run."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
from markupsafe import Markup

from sourcelair.hemera.pages.facts import MOST_OF_A_PATH, STEPS, Facts

FOLDER = Path(__file__).parent

_COMMENT = re.compile(r"(^|\s)// .*$")


def _lines(name: str) -> list[str]:
    """Return a file's lines without what only its readers need."""
    text = (FOLDER / name).read_text(encoding="utf-8")
    return [line for line in (_COMMENT.sub("", line).strip() for line in text.splitlines()) if line]


STYLE = re.sub(r"\s*([{};,])\s*|(?<=:) ", r"\1", "".join(_lines("page.css")))
SCRIPT = "\n".join(_lines("page.js"))


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


POLICY = (
    f"default-src 'none'; style-src {_hash(STYLE)}; script-src {_hash(SCRIPT)}; connect-src 'self'; img-src data:; "
    "form-action 'self'; base-uri 'none'"
)
"""`Content-Security-Policy` of the page. It says nothing of frames: online IDEs embed what it stands for."""

_templates = jinja2.Environment(
    loader=jinja2.FileSystemLoader(FOLDER),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def variables(facts: Facts) -> dict[str, Any]:
    """Return what a template is given, ours or an operator's. Host names, reasons and log lines are hostile."""
    names: tuple[str, ...] = (
        "state",
        "stage",
        "said",
        "place",
        "elapsed",
        "usual",
        "time",
        "retry",
        "log",
        "failed_at",
        "given_up",
    )
    names += ("heading", "late", "changed", "host", "path", "owner", "project")
    back = facts.path if len(facts.path) <= MOST_OF_A_PATH else "/"
    return {
        **{name: getattr(facts, name) for name in names},
        "steps": STEPS,
        "done": [name for name, _ in STEPS].index(facts.stage),
        "retry_url": f"/.hemera/retry?to={quote(back, safe='')}",
        "style": Markup(STYLE),  # noqa: S704  # ours
        "script": Markup(SCRIPT),  # noqa: S704  # ours
    }


def render(facts: Facts) -> str:
    """Return the page as HTML."""
    return _templates.get_template("page.html").render(variables(facts))
