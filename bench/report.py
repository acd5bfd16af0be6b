"""What a scenario found: tables as Markdown with all that is needed to repeat it, and plots as SVG."""

from __future__ import annotations

import datetime
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from bench.install import version
from bench.machine import described

RESULTS = Path(__file__).parent / "results"

WIDTH, LABEL, BAR, GAP = 860, 330, 20, 8
"""Pixels of a plot: its width, that of the names, the height of a bar, and the room between two."""


@dataclass
class Table:
    """One table of a report, and what is to be known of it."""

    title: str
    head: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """Return it as Markdown."""
        cells = [self.head, ["---"] * len(self.head), *self.rows]
        table = ["| " + " | ".join(row) + " |" for row in cells]
        return [f"## {self.title}", "", *table, "", *(f"{note}\n" for note in self.notes)]


@dataclass
class Report:
    """All that one scenario found. `promises` says for each promise whether it holds, and with what figure."""

    name: str
    title: str
    command: str
    tables: list[Table] = field(default_factory=list)
    bars: list[tuple[str, float]] = field(default_factory=list)
    """Of the plot: names and values."""
    unit: str = ""
    promises: list[tuple[str, str, bool]] = field(default_factory=list)
    """What was promised, the figure, and whether it holds."""
    programs: Sequence[str] = ()

    def text(self) -> str:
        """Return it as Markdown."""
        lines = [
            f"# {self.title}",
            "",
            f"Measured on {datetime.datetime.now(datetime.UTC):%Y-%m-%d} by `{self.command}`.",
        ]
        lines += [f"{line}." for line in described()]
        lines += [f"{version(name)}." for name in self.programs]
        lines.append("")
        if self.promises:
            held: list[Sequence[str]] = [
                [what, figure, "yes" if holds else "**no**"] for what, figure, holds in self.promises
            ]
            lines += Table("Promises", ["what", "measured", "holds"], held).lines()
        if self.bars:
            lines += [f"![{self.title}]({self.name}.svg)", ""]
        for table in self.tables:
            lines += table.lines()
        return "\n".join(lines).rstrip() + "\n"

    def write(self) -> None:
        """Write it, and its plot, to `bench/results/`."""
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{self.name}.md").write_text(self.text())
        if self.bars:
            (RESULTS / f"{self.name}.svg").write_text(plot(self.bars, self.unit))


def spread(values: Iterable[float], digits: int = 1) -> str:
    """Return the median of some values with the least and the most of them."""
    known = list(values)
    return f"{statistics.median(known):.{digits}f} ({min(known):.{digits}f} to {max(known):.{digits}f})"


def plot(bars: Sequence[tuple[str, float]], unit: str) -> str:
    """Return bars as SVG, readable on light and on dark ground."""
    longest = max(value for _, value in bars) or 1.0
    height = len(bars) * (BAR + GAP) + GAP
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}">',
        "<style>text{font:14px sans-serif;fill:#57606a}.ours{fill:#2f7d4f}.peer{fill:#8b98a5}"
        "@media(prefers-color-scheme:dark){text{fill:#adb6bf}}</style>",
    ]
    for at, (name, value) in enumerate(bars):
        top = GAP + at * (BAR + GAP)
        width = max(1.0, (WIDTH - LABEL - 110) * value / longest)
        kind = "ours" if name.startswith("SourceLair") else "peer"
        lines.append(f'<text x="{LABEL - 8}" y="{top + 15}" text-anchor="end">{escape(name)}</text>')
        lines.append(f'<rect class="{kind}" x="{LABEL}" y="{top}" width="{width:.1f}" height="{BAR}" rx="2"/>')
        lines.append(f'<text x="{LABEL + width + 8:.1f}" y="{top + 15}">{value:.3g} {escape(unit)}</text>')
    return "\n".join([*lines, "</svg>"]) + "\n"
