"""Figures of a page that can be hovered over and zoomed, by Bokeh; their colours follow the page's colour scheme."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from bokeh.embed import components
from bokeh.models import ColumnDataSource, HoverTool, NumeralTickFormatter, Range1d, Whisker
from bokeh.plotting import figure
from numpy.typing import NDArray

from thetahat.figures.panel import Column, Curve, Events, Panel

# pyright: reportPrivateUsage=false

NUM_COLOURS = 8  # of runs, after which they repeat; page.html has their values for light and for dark
MOST_POINTS = 600  # of a curve: more are drawn as means of neighbours, with the band from least to greatest
HEIGHT = 270  # pixels
MARGIN = 1.015  # of the range along x, behind its last point; page.js has it, too
GREY = "#808891"  # legible on white and on black; the page's script sets the colours of its scheme


@dataclass(frozen=True, slots=True)
class Embedded:
    """Scripts and places of figures, for a page."""

    script: str
    places: dict[str, str]  # by the name of the figure: an element


def embed(figures: Mapping[str, figure]) -> Embedded:
    """One script that draws all figures, and the element of each. Zooming along x zooms all that share a range."""
    if not figures:
        return Embedded("", {})
    script, places = components(dict(figures), wrap_script=False)
    return Embedded(script, dict(places))


def draw(panels: Mapping[str, Panel], x: str, events: Sequence[Events] = ()) -> dict[str, figure]:
    """A figure for each panel, all over the same range of `x`; `x` may be changed by the page.

    Where there are `events`, their figure is `alarms`.
    """
    ends = [(float(c.x[x].min()), float(c.x[x].max())) for p in panels.values() for c in p.curves if len(c.y)]
    low, high = min((end[0] for end in ends), default=0.0), max((end[1] for end in ends), default=1.0)
    shared = Range1d(start=min(low, 0.0), end=MARGIN * high or 1.0, tags=["x"])
    drawn = {name: _panel(panel, x, shared) for name, panel in panels.items()}
    return drawn | ({"alarms": timeline(events, x, shared)} if events else {})


def _panel(panel: Panel, x: str, shared: Range1d) -> figure:
    plot = plain(y_axis_type="log" if panel.is_log else "linear", x_range=shared)
    plot.xaxis.axis_label, plot.xaxis.tags, plot.yaxis.axis_label = x, ["x"], panel.unit
    plot.xaxis.formatter = NumeralTickFormatter(format="0.[0]a")  # 20k, 1.5m
    for curve in panel.curves:
        _add(plot, curve, x, panel.unit)
    for mark in panel.marks:
        columns = {**{name: np.array([value]) for name, value in mark.x.items()}, "x": np.array([mark.x[x]])}
        tags = [f"colour-{mark.colour % NUM_COLOURS}"]
        drawn: dict[str, Any] = {"source": ColumnDataSource(columns), "legend_label": mark.name, "tags": tags}
        plot.vspan(x="x", line_color=GREY, line_dash="dotted", line_width=1.4, **drawn)
    if panel.limit is not None:
        value, name = panel.limit
        plot.hspan(y=value, line_color=GREY, line_dash="dashed", line_width=1.2, legend_label=name)
    if len({curve.name for curve in panel.curves}) + (panel.limit is not None) + len(panel.marks) > 1:
        _legend(plot)
    else:
        plot.legend.visible = False
    return plot


def plain(**options: Any) -> figure:
    """An empty figure in the manner of all pages."""
    plot = figure(
        height=HEIGHT,
        sizing_mode="stretch_width",
        tools="xbox_zoom,xpan,xwheel_zoom,reset,save",
        active_drag="xbox_zoom",
        active_scroll=None,
        background_fill_color=None,
        border_fill_color=None,
        outline_line_color=None,
        min_border_right=12,
        **options,
    )
    plot.toolbar.logo, plot.toolbar.autohide = None, True
    for axis in plot.axis:
        axis.update(axis_line_color=GREY, major_tick_line_color=GREY, minor_tick_line_color=None)
        axis.update(axis_label_text_color=GREY, major_label_text_color=GREY, axis_label_text_font_style="normal")
    for grid in plot.grid:
        grid.update(grid_line_color=GREY, grid_line_alpha=0.25)
    return plot


def _add(plot: figure, curve: Curve, x: str, unit: str) -> None:
    thin = thinned(curve)
    columns = {**{name: _compact(value) for name, value in thin.x.items()}, "x": _compact(thin.x[x])}
    columns["y"] = thin.y.astype(np.float32)
    if thin.low is not None and thin.high is not None:
        columns |= {"low": thin.low.astype(np.float32), "high": thin.high.astype(np.float32)}
    source, tags = ColumnDataSource(columns), [f"colour-{curve.colour % NUM_COLOURS}"]
    drawn: dict[str, Any] = {"source": source, "legend_label": curve.name, "tags": tags}
    if "low" in columns and curve.has_points:
        bare: dict[str, Any] = {
            "source": source,
            "upper_head": None,
            "lower_head": None,
        }  # heads do not follow the colour scheme
        plot.add_layout(Whisker(base="x", lower="low", upper="high", **bare, line_color=GREY, tags=tags))
    elif "low" in columns:
        plot.varea("x", "low", "high", fill_alpha=0.18, fill_color=GREY, **drawn)
    line = plot.line("x", "y", line_width=1.6, line_color=GREY, **drawn)
    if curve.has_points:
        line = plot.scatter("x", "y", size=6, fill_color=GREY, line_color=None, **drawn)
    told = [*_axes(curve.x), (unit, "@y{0,0.0000}")]
    if "low" in columns:
        told.append(("95 % interval" if curve.has_points else "least to greatest", "@low{0,0.000} to @high{0,0.000}"))
    heading = [("", curve.name.replace("@", "").replace("$", ""))] if curve.name else []
    plot.add_tools(
        HoverTool(renderers=[line], tooltips=[*heading, *told], mode="vline" if curve.has_points else "mouse")
    )


def _axes(axes: Iterable[str]) -> list[tuple[str, str]]:
    """What a hover tells of a place on each axis."""
    return [(name, f"@{{{name}}}{{0,0}}") for name in axes]


def thinned(curve: Curve, most: int = MOST_POINTS) -> Curve:
    """The curve itself, or of a long one the mean of each group of neighbours, with their least and greatest value."""
    size = -(-len(curve.y) // most)
    if size <= 1 or curve.low is not None:
        return curve
    starts = np.arange(0, len(curve.y), size)
    counts = np.diff(starts, append=len(curve.y))
    means = {name: np.add.reduceat(value, starts) / counts for name, value in curve.x.items()}
    return Curve(
        curve.name,
        curve.colour,
        means,
        np.add.reduceat(curve.y, starts) / counts,
        np.minimum.reduceat(curve.y, starts),
        np.maximum.reduceat(curve.y, starts),
        curve.has_points,
    )


def _compact(values: Column) -> NDArray[Any]:
    """Half the bytes; up to 2^24 that is exact, and beyond within a pixel."""
    return values.astype(np.float32)


def timeline(events: Sequence[Events], x: str, shared: Range1d) -> figure:
    """For each name a row with a stroke at each of its places, the first name on top, over the range of the others."""
    rows = [*range(len(events), 0, -1)]
    plot = plain(x_range=shared, y_range=Range1d(start=0.4, end=len(events) + 0.6))
    plot.yaxis.ticker = rows
    plot.yaxis.major_label_overrides = {row: one.name for row, one in zip(rows, events, strict=True)}
    plot.xaxis.axis_label, plot.xaxis.tags = x, ["x"]
    plot.xaxis.formatter = NumeralTickFormatter(format="0.[0]a")
    plot.height, plot.ygrid.visible = 90 + 30 * len(rows), False
    for row, one in zip(rows, events, strict=True):
        columns: dict[str, Any] = {**one.x, "x": one.x[x], "y": np.full(len(one.said), row)}
        columns |= {"name": [one.name] * len(one.said), "said": [*one.said]}
        source, tags = ColumnDataSource(columns), [f"colour-{one.colour % NUM_COLOURS}"]
        style: dict[str, Any] = {"marker": "dash", "angle": np.pi / 2, "size": 18, "line_width": 1.6, "tags": tags}
        drawn = plot.scatter("x", "y", source=source, line_color=GREY, **style)
        plot.add_tools(HoverTool(renderers=[drawn], tooltips=[("", "@name"), *_axes(one.x), ("", "@said")]))
    return plot


def bars(names: Sequence[str], shares: Mapping[str, Column]) -> figure:
    """For each name a horizontal bar of each kind of share, the first name on top; in percent."""
    rows = [*range(len(names), 0, -1)]  # two may have the same name, once it is cut short
    plot = plain(y_range=Range1d(start=0.4, end=len(names) + 0.6))
    plot.yaxis.ticker, plot.yaxis.major_label_overrides = rows, dict(zip(rows, names, strict=True))
    plot.height = 90 + 34 * len(rows)
    plot.xaxis.axis_label = "%"
    plot.ygrid.visible = False
    wide = 0.7 / len(shares)
    for number, (name, values) in enumerate(shares.items()):
        place = np.array(rows) + ((len(shares) - 1) / 2 - number) * wide
        columns = {"y": place, "share": 100 * values, "name": np.array(list(names), dtype=object)}
        source = ColumnDataSource(columns)
        drawn = plot.hbar(
            "y", right="share", height=0.9 * wide, source=source, legend_label=name, fill_color=GREY, line_color=None
        )
        drawn.tags = [f"colour-{number % NUM_COLOURS}"]
        told = [("", "@name"), (f"share of the {name}", "@share{0.0} %")]
        plot.add_tools(HoverTool(renderers=[drawn], tooltips=told))
    _legend(plot)
    return plot


def _legend(plot: figure) -> None:
    """Above the plot, where it hides nothing; a click on a name hides what it names."""
    for legend in [*plot.legend]:
        legend.update(orientation="horizontal", padding=2, spacing=14, border_line_color=None, margin=0)
        legend.update(click_policy="hide", label_text_color=GREY, background_fill_alpha=0.0)
        plot.center.remove(legend)
        plot.add_layout(legend, "above")
