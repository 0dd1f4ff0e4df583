"""Plots as SVG, drawn here: bars of bytes to fetch, and lines of cost against size.

Both axes of sizes are logarithmic: methods differ by factors of hundreds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path

_WIDTH, _LEFT, _RIGHT, _ROW = 900, 210, 90, 20
_OURS, _PEER, _GRID = "#0a6e4f", "#9aa7b4", "#e3e6ea"
_COLOURS = ("#0a6e4f", "#b5482a", "#2a62b5", "#8a5ab5")


def save(folder: Path, name: str, text: str) -> None:
    """Writes a plot into the folder, which is made if it is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)


def bars(panels: Mapping[str, Sequence[tuple[str, int]]]) -> str:
    """Horizontal bars. panels: by title, (method, bytes), of which the first is ours."""
    sizes = [size for rows in panels.values() for _, size in rows if size > 0]
    low, high = _decades(sizes)
    scale = (_WIDTH - _LEFT - _RIGHT) / (high - low)
    body: list[str] = []
    top = 10
    for title, rows in panels.items():
        top += 26
        body.append(_text(10, top - 8, title, size=14))
        height = len(rows) * _ROW
        for decade in range(low, high + 1):
            x = _LEFT + (decade - low) * scale
            body.append(f'<path d="M{x:.1f} {top}v{height}" stroke="{_GRID}"/>')
            body.append(_text(x, top + height + 14, _size(10**decade), anchor="middle", size=11))
        ordered = [rows[0], *sorted(rows[1:], key=lambda row: row[1])]
        for number, (method, size) in enumerate(ordered):
            y = top + number * _ROW
            width = (math.log10(max(size, 1)) - low) * scale
            body.append(_text(_LEFT - 8, y + 14, method, anchor="end"))
            body.append(
                f'<rect x="{_LEFT}" y="{y + 3}" width="{max(width, 1):.1f}" height="{_ROW - 6}" '
                f'fill="{_PEER if number else _OURS}"/>'
            )
            body.append(_text(_LEFT + width + 6, y + 14, _size(size), size=11))
        top += height + 24
    return _document(top, body)


def lines(title: str, below: str, series: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """Lines over a common axis; both axes logarithmic. below: what the lower axis shows."""
    points = [point for line in series.values() for point in line]
    left, right = _decades([x for x, _ in points])
    low, high = _decades([y for _, y in points])
    height, top = 320, 40
    across = (_WIDTH - _LEFT - _RIGHT) / (right - left)
    up = height / (high - low)
    body = [_text(10, 22, title, size=14)]
    for decade in range(low, high + 1):
        y = top + height - (decade - low) * up
        body.append(f'<path d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}" stroke="{_GRID}"/>')
        body.append(_text(_LEFT - 8, y + 4, f"{10.0**decade:g}", anchor="end", size=11))
    for decade in range(left, right + 1):
        x = _LEFT + (decade - left) * across
        body.append(f'<path d="M{x:.1f} {top}v{height}" stroke="{_GRID}"/>')
        body.append(_text(x, top + height + 16, f"{10.0**decade:g}", anchor="middle", size=11))
    body.append(_text((_LEFT + _WIDTH - _RIGHT) / 2, top + height + 34, below, anchor="middle"))
    for number, (name, line) in enumerate(series.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        places = [
            (
                _LEFT + (math.log10(x) - left) * across,
                top + height - (math.log10(y) - low) * up,
            )
            for x, y in line
        ]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        body.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        body += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in places]
        body.append(_text(_LEFT + 10, top + 18 + number * 16, name, colour=colour))
    return _document(top + height + 44, body)


def _decades(values: Sequence[float]) -> tuple[int, int]:
    low = math.floor(math.log10(min(values)))
    return low, max(math.ceil(math.log10(max(values))), low + 1)


def _size(size: float) -> str:
    if size >= 1e6:
        return f"{size / 1e6:.3g} MB"
    return f"{size / 1e3:.3g} kB" if size >= 1e3 else f"{size:g} B"


def _text(
    x: float, y: float, text: str, *, anchor: str = "start", size: int = 12, colour: str = "#222"
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" '
        f'fill="{colour}">{escape(text)}</text>'
    )


def _document(height: int, body: Sequence[str]) -> str:
    return "".join(_lines(height, body))


def _lines(height: int, body: Sequence[str]) -> Iterator[str]:
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" '
        f'viewBox="0 0 {_WIDTH} {height}" font-family="sans-serif">\n'
    )
    yield f'<rect width="{_WIDTH}" height="{height}" fill="white"/>\n'
    for line in body:
        yield f"{line}\n"
    yield "</svg>\n"
