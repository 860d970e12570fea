"""The page of a comparison: one HTML file that contains its figures and loads nothing."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from thetahat.cli.words import escape
from thetahat.core.store import write_text
from thetahat.ledger.compare import Case, Comparison, Difference

MOST_SOURCES = 30
MOST_TEXT = 2_000  # characters of a case
MOST_BINS = 60
ROW, LEFT, RIGHT = 28, 230, 590  # pixels: of a row; where an axis begins and ends
TALL = 180  # pixels: of the histogram


@dataclass(frozen=True, slots=True)
class Axis:
    """Maps values to pixels; values beyond the ends are drawn at the ends."""

    low: float
    high: float
    left: int
    right: int

    def __call__(self, value: float) -> float:
        """The pixel of a value."""
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return round(self.left + share * (self.right - self.left), 2)

    def ticks(self) -> list[tuple[float, str]]:
        """About five round values, with their pixels."""
        step = 10.0 ** math.floor(math.log10((self.high - self.low) / 2))
        step *= next(factor for factor in (0.5, 1, 2, 5, 10) if (self.high - self.low) / (step * factor) <= 6)
        first, last = math.ceil(self.low / step), math.floor(self.high / step)
        return [(self(step * index), f"{step * index:+.4g}" if index else "0") for index in range(first, last + 1)]


def write_page(path: Path, compared: Comparison) -> None:
    """Writes the page whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, to_html(compared))


def to_html(compared: Comparison) -> str:
    """The page. Everything that comes from the data is escaped, and its own policy forbids it to load anything."""
    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters |= {"plain": escape, "signed": lambda value: f"{value:+.4g}", "p": lambda value: f"{value:.2g}"}
    return environment.get_template("compare.html").render(
        compared=compared,
        whole=compared.whole.to_dict(),
        forest=_forest(compared),
        histogram=_histogram(compared.whole),
        cases=[("gain", _cards(compared.gains)), ("loss", _cards(compared.losses))],
        num_more=max(0, len(compared.sources) - MOST_SOURCES),
    )


def _forest(compared: Comparison) -> dict[str, Any]:
    """A row for all documents and one for each source, where there are several."""
    rows = [("all documents", compared.whole, compared.whole.p_value)]
    if len(compared.sources) > 1:
        rows += [(one.source, one.difference, one.p_holm) for one in compared.sources[:MOST_SOURCES]]
    axis = _axis([difference for _, difference, _ in rows])
    drawn = [_bar(difference, axis) | {"name": name or "(no source)", "p": p} for name, difference, p in rows]
    return {
        "height": ROW * len(rows) + 34,
        "bottom": ROW * len(rows) + 8,
        "zero": axis(0.0),
        "ticks": axis.ticks(),
        "rows": [row | {"y": ROW * index + 20} for index, row in enumerate(drawn)],
    }


def _axis(differences: Sequence[Difference]) -> Axis:
    """An axis with 0, all estimates, and of each interval at most 1.5 times the median width to each side."""
    intervals = [difference.main.interval for difference in differences]
    widths = [high - low for _, low, high in intervals if not math.isnan(low)] or [0.0]
    reach = 1.5 * float(np.median(widths))
    lows = [max(low, estimate - reach) if not math.isnan(low) else estimate for estimate, low, _ in intervals]
    highs = [min(high, estimate + reach) if not math.isnan(high) else estimate for estimate, _, high in intervals]
    low, high = min(0.0, *lows), max(0.0, *highs)
    margin = 0.04 * (high - low) or 1.0
    return Axis(low - margin, high + margin, LEFT, RIGHT)


def _bar(difference: Difference, axis: Axis) -> dict[str, Any]:
    estimate, low, high = difference.main.interval
    has_ends = not math.isnan(low)
    side = "gain" if has_ends and low > 0 else "loss" if has_ends and high < 0 else "open"
    return {
        "x": axis(estimate),
        "left": axis(low if has_ends else estimate),
        "right": axis(high if has_ends else estimate),
        "side": side,
        "numbers": f"{estimate:+.4f}" + (f"  [{low:+.4f}, {high:+.4f}]" if has_ends else ""),
        "difference": difference,
    }


def _histogram(whole: Difference) -> dict[str, Any]:
    """How many documents have which difference; the outermost hundredths are in the outer bins."""
    values = whole.main.by_unit
    low, high = (float(end) for end in np.quantile(values, [0.01, 0.99]))
    reach = max(abs(low), abs(high)) or 1.0
    num_bins = min(MOST_BINS, 2 * math.isqrt(2 * len(values)) + 2)  # even, so that one edge is 0
    counts, edges = np.histogram(np.clip(values, -reach, reach), num_bins, (-reach, reach))
    axis, most = Axis(-reach, reach, 20, 840), int(counts.max())
    bins = [
        {
            "x": axis(float(left)),
            "width": round(axis(float(right)) - axis(float(left)) - 1, 2),
            "height": round(TALL * int(count) / most, 2),
            "side": "gain" if left >= 0 else "loss",
            "what": f"{int(count):,} {whole.interval_unit} from {left:+.3g} to {right:+.3g}",
        }
        for count, left, right in zip(counts, edges[:-1], edges[1:], strict=True)
        if count
    ]
    marks = {"zero": axis(0.0), "mean": axis(whole.main.interval.estimate), "median": axis(whole.main.median)}
    return {"bins": bins, "tall": TALL, "ticks": axis.ticks()} | marks


def _cards(cases: Sequence[Case]) -> list[dict[str, Any]]:
    return [
        {
            "case": case,
            "name": case.id if case.part == "document" else f"{case.id} ({case.part})",
            "text": case.text[:MOST_TEXT] if case.text else None,
            "is_cut": case.text is not None and len(case.text) > MOST_TEXT,
        }
        for case in cases
    ]
