"""Figures as text: lines in braille, told apart by colours, or by marks where there are no colours."""

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from thetahat.figures.panel import Column, Panel

COLOURS = ((0, 145, 220), (230, 120, 20), (0, 170, 125), (215, 130, 180), (200, 160, 0), (110, 190, 235))
"""Of runs, in the hues of Okabe and Ito (2008), which the colour-blind tell apart; legible on black and on white."""
MARKS = ("braille", "+", "x", "o", "#", "*")  # of lines, without colours
POINTS = ("●", "■", "▲", "◆", "★", "○")  # of evaluations
LINE = "┊"  # where a run was branched
HEIGHT = 18  # lines of a panel
NARROWEST = 40  # columns
_STYLE = re.compile(r"\x1b\[[0-9;]*m")


def as_text(panels: Sequence[Panel], axis: str, width: int, *, has_colours: bool, height: int = HEIGHT) -> str:
    """The panels below one another, `width` columns wide, each `height` lines high below the names of its curves."""
    size = max(width, NARROWEST), height
    return "\n\n".join(_panel(panel, axis, size, has_colours=has_colours) for panel in panels)


def _panel(panel: Panel, axis: str, size: tuple[int, int], *, has_colours: bool) -> str:
    import plotext

    plot: Any = plotext.figure
    plot.clear()
    plot.theme("colorless")
    plot.plot_size(*size)
    plot.legend(active=False)
    legend: list[str] = []
    for curve in panel.curves:
        marks = POINTS if curve.has_points else MARKS[:1] if has_colours else MARKS
        mark = marks[curve.colour % len(marks)]
        colour = COLOURS[curve.colour % len(COLOURS)]
        x, y = curve.x[axis], _scaled(curve.y, panel)
        drawn = plot.signal(x.tolist(), y.tolist(), marker=plotext.marker(mark, plotext.pixel(colour)))
        if not curve.has_points:
            drawn.lines()
        plot.draw(drawn)
        shown = "⣀⡠⠊" if mark == "braille" else mark
        legend.append(f"{_coloured(shown, colour) if has_colours else shown} {curve.name}")
    legend += _marks(plot, panel, axis, has_colours=has_colours)
    _rule(plot, panel, axis)
    text: str = plot.build().string(not has_colours)
    lines = [f"{panel.title} over {axis}", *in_lines(legend, size[0]), *text.splitlines()]
    return "\n".join(line.rstrip() for line in lines)


def in_lines(pieces: Sequence[str], width: int) -> list[str]:
    """Pieces side by side, as many as fit into a line."""
    lines: list[str] = []
    for name in pieces:
        joined = f"{lines[-1]}  {name}" if lines else name
        if lines and len(_STYLE.sub("", joined)) <= width:
            lines[-1] = joined
        else:
            lines.append(name)
    return lines


def _marks(plot: Any, panel: Panel, axis: str, *, has_colours: bool) -> list[str]:
    """Draws the vertical lines, and returns what stands in the legend."""
    import plotext

    values = np.concatenate([_scaled(curve.y, panel) for curve in panel.curves])
    values = values[np.isfinite(values)]
    legend: list[str] = []
    for mark in panel.marks if len(values) else ():
        colour = COLOURS[mark.colour % len(COLOURS)]
        ends = [float(values.min()), float(values.max())]
        drawn = plot.signal([mark.x[axis]] * 2, ends, marker=plotext.marker(LINE, plotext.pixel(colour)))
        drawn.lines()
        plot.draw(drawn)
        legend.append(f"{_coloured(LINE, colour) if has_colours else LINE} {mark.name}")
    return legend


def _scaled(values: Column, panel: Panel) -> Column:
    return np.log10(values) if panel.is_log else values


def _rule(plot: Any, panel: Panel, axis: str) -> None:
    """Round numbers along both axes."""
    across = [curve.x[axis] for curve in panel.curves]
    up = [_scaled(curve.y, panel) for curve in panel.curves]
    for side, columns, most in ((0, across, 8), (1, up, 6)):
        values = np.concatenate(columns)
        values = values[np.isfinite(values)]
        if len(values):
            places = round_numbers(float(values.min()), float(values.max()), most)
            is_log = panel.is_log and side == 1
            plot.ruler(side, 0).ticks(places, [_number(10**place if is_log else place) for place in places])


def round_numbers(low: float, high: float, most: int) -> list[float]:
    """At most `most` multiples of 1, 2 or 5 times a power of ten, from `low` to `high`; at least their middle."""
    if not high > low:
        return [low]
    size = 10.0 ** math.floor(math.log10((high - low) / most))
    step = next(size * factor for factor in (1, 2, 5, 10, 20) if (high - low) / (size * factor) <= most - 1)
    return [number * step for number in range(math.ceil(low / step), math.floor(high / step) + 1)] or [(low + high) / 2]


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _coloured(text: str, colour: tuple[int, int, int]) -> str:
    red, green, blue = colour
    return f"\x1b[38;2;{red};{green};{blue}m{text}\x1b[0m"
