"""Small plots as inline SVG: a line over time, columns of a histogram, bars with names, one bar of shares.

Colours are the page's (`var(--…)`), so that a plot follows its light and dark theme. All text is escaped here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

__all__ = ["columns", "line", "named_bars", "share_bar"]

WIDTH, HEIGHT = 640, 220
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 28, 34
SERIES = 8
MAX_COLUMN_WIDTH = 90


def line(points: Sequence[tuple[float, float]], x_name: str, y_name: str, mean: float | None = None) -> str:
    """A line with the area under it; `mean` is drawn across, dashed."""
    if len(points) < 2:
        return _nothing("too short to plot")
    x_max, y_max = max(x for x, _ in points), _nice_limit(max(y for _, y in points))
    x_min = min(x for x, _ in points)
    span = (x_max - x_min) or 1.0
    placed = [(LEFT + (x - x_min) / span * _inner_width(), _y(y, y_max)) for x, y in points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
    floor = _y(0, y_max)
    parts = [_grid(y_max, y_name)]
    parts.append(f'<polygon class="area" points="{placed[0][0]:.1f},{floor} {path} {placed[-1][0]:.1f},{floor}"/>')
    parts.append(f'<polyline class="line" points="{path}"/>')
    if mean is not None:
        y = _y(mean, y_max)
        parts.append(f'<line class="mean" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
    for share in (0, 0.25, 0.5, 0.75, 1):
        x = LEFT + share * _inner_width()
        anchor = "start" if share == 0 else "end" if share == 1 else "middle"
        parts.append(_text(x, HEIGHT - BOTTOM + 16, short(x_min + share * span), anchor))
    parts.append(_text(WIDTH - RIGHT, HEIGHT - 3, x_name, "end", "name"))
    return _svg(parts, f"{y_name} over {x_name}")


def columns(counts: Sequence[tuple[str, int]], x_name: str, y_name: str) -> str:
    """A column for each name, in the given order: a histogram."""
    if not counts:
        return _nothing("nothing was counted")
    y_max = _nice_limit(max(count for _, count in counts))
    step = min(_inner_width() / len(counts), MAX_COLUMN_WIDTH)
    left = LEFT + (_inner_width() - step * len(counts)) / 2
    every = math.ceil(len(counts) / 10)
    parts = [_grid(y_max, y_name)]
    for index, (name, count) in enumerate(counts):
        x, y = left + index * step, _y(count, y_max)
        height = HEIGHT - BOTTOM - y
        title = f"<title>{escape(name)}: {count:,}</title>"
        parts.append(
            f'<rect class="column" x="{x + step * 0.08:.1f}" y="{y:.1f}" width="{step * 0.84:.1f}" '
            f'height="{height:.1f}" rx="2">{title}</rect>'
        )
        if index % every == 0:
            parts.append(_text(x + step / 2, HEIGHT - BOTTOM + 16, name, "middle"))
    parts.append(_text(WIDTH - RIGHT, HEIGHT - 3, x_name, "end", "name"))
    return _svg(parts, f"{y_name} by {x_name}")


def named_bars(counts: Mapping[str, float], kind: str = "") -> str:
    """A row for each name with a bar and its number, as HTML: names may be long."""
    largest = max(counts.values(), default=0) or 1
    rows = [
        f'<div class="bar-name" title="{escape(name)}">{escape(name)}</div>'
        f'<div class="bar-track"><div class="bar {kind}" style="width:{max(value / largest, 0.004):.1%}"></div></div>'
        f'<div class="bar-value">{value:,.0f}</div>'
        for name, value in counts.items()
    ]
    return f'<div class="bars">{"".join(rows)}</div>'


def share_bar(shares: Mapping[str, float], seconds: Mapping[str, float]) -> str:
    """One bar cut into shares, with a legend; shares below half a percent are left out."""
    shown = {name: share for name, share in shares.items() if share >= 0.005}
    if not shown:
        return _nothing("nothing was measured")
    cut = "".join(
        f'<div class="s{index % SERIES}" style="width:{share:.2%}" title="{escape(name)}: {share:.1%}"></div>'
        for index, (name, share) in enumerate(shown.items())
    )
    legend = "".join(
        f'<li><i class="s{index % SERIES}"></i>{escape(name)} <b>{share:.1%}</b> '
        f"<span>{short(seconds.get(name, 0.0))} s</span></li>"
        for index, (name, share) in enumerate(shown.items())
    )
    return f'<div class="shares">{cut}</div><ul class="legend">{legend}</ul>'


def short(value: float) -> str:
    """A number in few characters.

    >>> [short(number) for number in (0, 0.25, 12.5, 1800, 2_500_000)]
    ['0', '0.25', '12.5', '1.8k', '2.5M']
    """
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.3g}{unit}"
    return f"{value:.3g}"


def _grid(y_max: float, y_name: str) -> str:
    parts = []
    for share in (0, 0.25, 0.5, 0.75, 1):
        y = _y(share * y_max, y_max)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(_text(LEFT - 6, y + 4, short(share * y_max), "end"))
    parts.append(_text(LEFT, TOP - 14, y_name, "start", "name"))
    return "".join(parts)


def _text(x: float, y: float, text: str, anchor: str, kind: str = "tick") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(parts: Sequence[str], title: str) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">{"".join(parts)}</svg>'


def _nothing(why: str) -> str:
    return f'<p class="nothing">{escape(why)}</p>'


def _y(value: float, y_max: float) -> float:
    return HEIGHT - BOTTOM - value / y_max * (HEIGHT - TOP - BOTTOM)


def _inner_width() -> float:
    return WIDTH - LEFT - RIGHT


def _nice_limit(value: float) -> float:
    """The next number above that divides well by four.

    >>> _nice_limit(37), _nice_limit(0.9), _nice_limit(0)
    (40.0, 1.0, 1.0)
    """
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(
        step * power for step in (1, 1.2, 1.6, 2, 2.4, 3.2, 4, 5, 6, 8, 10) if value <= step * power * 1.0000001
    )
