"""Figures as SVG, PNG or PDF, by matplotlib: the same curves give the same file, byte by byte."""

from collections.abc import Sequence
from io import BytesIO
from typing import Any

import numpy as np

from thetahat.core.errors import ConfigError
from thetahat.figures.panel import Curve, Panel

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#555555")
"""Of runs: the colours of Okabe and Ito (2008), which the colour-blind tell apart."""
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))  # of runs, told apart in print without colours, too
FORMATS = ("svg", "png", "pdf")
WIDTH, HEIGHT = 7.2, 3.1  # inches of a panel
INK, GRID = "#222222", "#e4e4e4"
FAINT = 0.28  # opacity of what was smoothed
STYLE = {
    "font.family": "DejaVu Sans",  # comes with matplotlib
    "font.size": 9,
    "svg.hashsalt": "thetahat",
    "svg.fonttype": "path",
    "pdf.fonttype": 42,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
_UNDATED = {"svg": {"Date": None}, "png": {"Software": None}, "pdf": {"CreationDate": None}}


def as_image(panels: Sequence[Panel], axis: str, form: str) -> bytes:
    """The panels below one another, as the bytes of a file of this form.

    A curve's name stands behind its end. Raises ConfigError where matplotlib is not installed.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError("a picture needs matplotlib", cure="pip install 'thetahat[plot]'") from error
    with rc_context(STYLE):  # pyright: ignore[reportArgumentType] - its keys are a literal type of theirs
        figure = Figure(figsize=(WIDTH, HEIGHT * len(panels)), layout="constrained")
        places: Any = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
        for place, panel in zip(places, panels, strict=True):
            _draw(place, panel, axis)
        places[-1].set_xlabel(axis)
        file = BytesIO()
        figure.savefig(file, format=form, dpi=200, metadata=_UNDATED[form])
    return file.getvalue()


def _draw(place: Any, panel: Panel, axis: str) -> None:
    place.set_title(panel.title, loc="left", fontsize=10, fontweight="bold")
    place.set_ylabel(panel.unit)
    place.grid(color=GRID, linewidth=0.8)
    place.set_axisbelow(True)
    if panel.is_log:
        place.set_yscale("log")
    for curve in panel.curves:
        _add(place, curve, axis)
    for mark in panel.marks:
        colour, x = COLOURS[mark.colour % len(COLOURS)], mark.x[axis]
        place.axvline(x, color=colour, linewidth=1.0, linestyle=":")
        named: dict[str, Any] = {
            "xycoords": ("data", "axes fraction"),
            "textcoords": "offset points",
            "fontsize": 8,
            "color": colour,
        }
        place.annotate(mark.name, (x, 1.0), (3, -9), **named)
    if panel.limit is not None:
        value, name = panel.limit
        place.axhline(value, color=INK, linewidth=0.8, linestyle=":")
        place.annotate(
            name, (0, value), (2, 2), xycoords=("axes fraction", "data"), textcoords="offset points", fontsize=8
        )
    if len(panel.curves) > 1:
        _name(place, panel.curves, axis)
    place.xaxis.set_major_formatter("{x:,.6g}")
    place.margins(x=0.01)


def _add(place: Any, curve: Curve, axis: str) -> None:
    colour, dash = COLOURS[curve.colour % len(COLOURS)], DASHES[curve.colour % len(DASHES)]
    x = curve.x[axis]
    if curve.has_points:
        if curve.low is not None and curve.high is not None:
            place.vlines(x, curve.low, curve.high, color=colour, linewidth=1.2, zorder=3)
        place.plot(
            x, curve.y, "o", color=colour, markersize=4.5, markerfacecolor="white", markeredgewidth=1.4, zorder=4
        )
        return
    if curve.before is not None:
        place.plot(x, curve.before, color=colour, alpha=FAINT, linewidth=0.8, zorder=1)
    if curve.low is not None and curve.high is not None:
        place.fill_between(x, curve.low, curve.high, color=colour, alpha=FAINT / 2, linewidth=0, zorder=1)
    place.plot(x, curve.y, color=colour, linestyle=dash, linewidth=1.6, zorder=2)


def _name(place: Any, curves: Sequence[Curve], axis: str) -> None:
    """Behind the end of each curve its name, moved apart where they would overlap."""
    low, high = place.get_ylim()
    log = place.get_yscale() == "log"
    scale = np.log10 if log else np.asarray
    ends = [float((scale(curve.y[-1]) - scale(low)) / (scale(high) - scale(low))) for curve in curves]
    right = max(float(curve.x[axis][-1]) for curve in curves)
    for number, height in zip(np.argsort(ends, kind="stable").tolist(), apart(sorted(ends)), strict=True):
        curve = curves[number]
        place.annotate(
            curve.name,
            (right, height),
            (6, 0),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            color=COLOURS[curve.colour % len(COLOURS)],
            va="center",
            fontsize=8.5,
            annotation_clip=False,
        )


def apart(heights: Sequence[float], least: float = 0.075) -> list[float]:
    """Ascending heights, moved as little as keeps two neighbours `least` apart: blocks that touch share their mean."""
    blocks: list[list[float]] = []  # each: the sum of the wanted places of its first member, and its size
    for number, height in enumerate(heights):
        blocks.append([height - number * least, 1.0])
        while len(blocks) > 1 and blocks[-2][0] / blocks[-2][1] > blocks[-1][0] / blocks[-1][1]:
            total, size = blocks.pop()
            blocks[-1][0] += total
            blocks[-1][1] += size
    firsts = [total / size for total, size in blocks for _ in range(int(size))]
    return [first + number * least for number, first in enumerate(firsts)]
