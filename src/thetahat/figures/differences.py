"""Figures of a comparison: estimates with their intervals, and how differences are spread."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from bokeh.models import ColumnDataSource, HoverTool, Range1d, Whisker
from bokeh.plotting import figure
from numpy.typing import ArrayLike, NDArray

from thetahat.figures.interactive import GREY, plain

MOST_BINS = 60
SIDES = ("gain", "loss", "open")  # of 0: above, below, undecided; page.html has their colours


@dataclass(frozen=True, slots=True)
class Estimate:
    """One row of a forest plot; `low` and `high` are NaN where there is no interval."""

    name: str
    estimate: float
    low: float
    high: float
    beside: str  # what else is said of it where it is hovered over

    @property
    def side(self) -> str:
        """Where the whole interval lies."""
        return "gain" if self.low > 0 else "loss" if self.high < 0 else "open"


def forest(rows: Sequence[Estimate], unit: str) -> figure:
    """Estimates below one another with their intervals; the first row is the whole.

    An interval that is more than three times as wide as the median one is drawn to its edge, and hovering tells it all.
    """
    low, high = _ends(rows)
    margin = 0.06 * (high - low) or 1.0
    places = list(range(len(rows), 0, -1))
    ranges = {
        "x_range": Range1d(start=low - margin, end=high + margin),
        "y_range": Range1d(start=0.4, end=len(rows) + 0.6),
    }
    plot = plain(**ranges)
    plot.height = 70 + 28 * len(rows)
    plot.yaxis.ticker, plot.yaxis.major_label_overrides = places, {p: r.name for p, r in zip(places, rows, strict=True)}
    plot.xaxis.axis_label, plot.ygrid.visible = unit, False
    plot.vspan(x=0, line_color=GREY, line_dash="dashed", line_width=1.2)
    for side in SIDES:
        mine = [(place, row) for place, row in zip(places, rows, strict=True) if row.side == side]
        if mine:
            _add(plot, mine, side, (low - margin, high + margin))
    return plot


def _add(plot: figure, rows: Sequence[tuple[int, Estimate]], side: str, ends: tuple[float, float]) -> None:
    values = np.array([[row.estimate, row.low, row.high] for _, row in rows])
    drawn = np.clip(np.where(np.isnan(values), values[:, :1], values), *ends)
    told = [f"{e:+.4f}" + ("" if math.isnan(a) else f"  [{a:+.4f}, {b:+.4f}]") for e, a, b in values.tolist()]
    columns = {
        "y": [place for place, _ in rows],
        **{name: drawn[:, index] for index, name in enumerate(("x", "low", "high"))},
        "name": [row.name for _, row in rows],
        "told": told,
        "beside": [row.beside for _, row in rows],
        "size": [12 if place == len(plot.yaxis[0].major_label_overrides) else 9 for place, _ in rows],
    }
    source = ColumnDataSource(columns)
    whisker = Whisker(base="y", lower="low", upper="high", dimension="width", source=source, tags=[f"colour-{side}"])
    whisker.update(line_color=GREY, line_width=2, upper_head=None, lower_head=None)
    plot.add_layout(whisker)
    points = plot.scatter("x", "y", size="size", source=source, fill_color=GREY, line_color=None)
    points.tags = [f"colour-{side}"]
    plot.add_tools(HoverTool(renderers=[points], tooltips=[("", "@name"), ("", "@told"), ("", "@beside")]))


def _ends(rows: Sequence[Estimate]) -> tuple[float, float]:
    """An axis with 0, all estimates, and of each interval at most 1.5 times the median width to each side."""
    widths = [row.high - row.low for row in rows if not math.isnan(row.low)] or [0.0]
    reach = 1.5 * float(np.median(widths))
    lows = [row.estimate if math.isnan(row.low) else max(row.low, row.estimate - reach) for row in rows]
    highs = [row.estimate if math.isnan(row.high) else min(row.high, row.estimate + reach) for row in rows]
    return min(0.0, *lows), max(0.0, *highs)


def histogram(values: ArrayLike, unit: str, of: str, mean: float) -> figure:
    """How many have which difference; the outermost hundredths are in the outer bins. A line stands at the mean."""
    counts, edges = binned(values)
    plot = plain()
    plot.xaxis.axis_label, plot.yaxis.axis_label = unit, of
    plot.y_range.start = 0  # pyright: ignore[reportAttributeAccessIssue]
    for side, kept in (("gain", edges[:-1] >= 0), ("loss", edges[:-1] < 0)):
        columns: dict[str, Any] = {"left": edges[:-1][kept], "right": edges[1:][kept], "top": counts[kept]}
        source = ColumnDataSource(columns)
        bars = plot.quad("left", "right", "top", 0, source=source, fill_color=GREY, fill_alpha=0.85, line_color=None)
        bars.tags = [f"colour-{side}"]
        told = [(of, "@top{0,0}"), ("from", "@left{+0.0000}"), ("to", "@right{+0.0000}")]
        plot.add_tools(HoverTool(renderers=[bars], tooltips=told))
    plot.vspan(x=0, line_color=GREY, line_dash="dashed", line_width=1.2)
    plot.vspan(x=mean, line_color=GREY, line_width=2)
    return plot


def binned(values: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Counts and edges of bins, one edge of which is 0; what lies beyond the outer hundredths is in the outer bins."""
    array = np.asarray(values, dtype=np.float64)
    low, high = (float(end) for end in np.quantile(array, [0.01, 0.99]))
    reach = max(abs(low), abs(high)) or 1.0
    num_bins = min(MOST_BINS, 2 * math.isqrt(2 * len(array)) + 2)  # even, so that one edge is 0
    edges = np.linspace(-reach, reach, num_bins + 1)
    edges[num_bins // 2] = 0.0  # to the bit: what is 0 belongs to the right of it
    return np.histogram(np.clip(array, -reach, reach), edges)[0], edges
