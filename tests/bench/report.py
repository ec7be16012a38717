"""The report: a table, JSON, and a plot of each part.

This module writes the plots as SVG, with a bar for the spread and a tick for the goal; matplotlib would be a large
download for a development tool.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path

from tests.bench.figures import Figure

ROW, LABELS, WIDTH = 24, 420, 360  # pixels: a row's height, the names' width, the scale's


def table(figures: Sequence[Figure]) -> str:
    width = max(len(each.name) for each in figures)
    lines = [f"{'':{width}}  median     low    high    goal  met"]
    for each in figures:
        met = {True: "yes", False: "no", None: ""}[each.met]
        lines.append(
            f"{each.name:{width}}  {each.ratio:6.2f}  {each.low:6.2f}  {each.high:6.2f}  {each.goal:>6}  {met}"
        )
    return "\n".join([*lines, *(f"on {engine}" for engine in dict.fromkeys(each.engine for each in figures))])


def write(directory: Path, parts: Mapping[str, Sequence[Figure]]) -> None:
    """Store `report.json` and `<part>.svg` in the directory."""
    directory.mkdir(parents=True, exist_ok=True)
    figures = [asdict(each) for part in parts.values() for each in part]
    (directory / "report.json").write_text(json.dumps(figures, indent=2, ensure_ascii=False) + "\n")
    for name, part in parts.items():
        (directory / f"{name}.svg").write_text(plot(name, part))


def plot(title: str, figures: Sequence[Figure]) -> str:
    """Draw the figures as rows: a bar from low to high, a dot at the median, a tick at the goal."""
    most = max([1.0, *(each.high for each in figures), *filter(None, map(_limit, figures))]) * 1.05
    height = ROW * (len(figures) + 2)
    body = [f'<text x="8" y="{ROW * 0.7}" font-weight="bold">{escape(title)}</text>']
    for number, each in enumerate(figures, start=1):
        body += _row(each, ROW * number, lambda value: LABELS + WIDTH * value / most)
    engines = ", ".join(dict.fromkeys(each.engine for each in figures))
    body.append(f'<text x="8" y="{height - ROW * 0.3}" fill="#777">{escape(engines)}</text>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LABELS + WIDTH + 80} {height}" '
        f'font-family="sans-serif" font-size="13" fill="#333">\n' + "\n".join(body) + "\n</svg>\n"
    )


def _row(each: Figure, top: float, at: Callable[[float], float]) -> list[str]:
    middle, colour = top + ROW / 2, {True: "#2a7", False: "#c33", None: "#57a"}[each.met]
    row = [
        f'<text x="8" y="{middle + 4}">{escape(each.name)}</text>',
        f'<rect x="{at(each.low):.1f}" y="{middle - 4}" width="{max(2.0, at(each.high) - at(each.low)):.1f}" '
        f'height="8" fill="{colour}" fill-opacity="0.35"/>',
        f'<circle cx="{at(each.ratio):.1f}" cy="{middle}" r="4" fill="{colour}"/>',
        f'<text x="{LABELS + WIDTH + 8}" y="{middle + 4}">{each.ratio:.2f} {escape(each.goal)}</text>',
    ]
    if limit := _limit(each):
        row.append(f'<path d="M{at(limit):.1f} {top + 3}v{ROW - 6}" stroke="#333"/>')
    return row


def _limit(each: Figure) -> float | None:
    match = re.search(r"[\d.]+", each.goal)
    return float(match[0]) if match else None
