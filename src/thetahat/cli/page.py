"""The page of a comparison: one HTML file that contains its figures and loads nothing."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from thetahat.core.store import write_text
from thetahat.figures.differences import Estimate, forest, histogram
from thetahat.figures.interactive import embed
from thetahat.figures.page import printable, render
from thetahat.ledger.compare import Case, Comparison, Difference

MOST_SOURCES = 30
MOST_TEXT = 2_000  # characters of a case
MOST_NAME = 30  # characters of a source beside its interval


def write_page(path: Path, compared: Comparison) -> None:
    """Writes the page whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, to_html(compared))


def to_html(compared: Comparison) -> str:
    """The page. Everything that comes from the data is escaped, and its own policy forbids it to load anything."""
    rows, whole = _rows(compared), compared.whole
    figures = {
        "forest": forest([estimate for estimate, _, _ in rows], compared.unit),
        "histogram": histogram(
            whole.main.by_unit, compared.unit, whole.interval_unit, float(whole.main.interval.estimate)
        ),
    }
    filters = {"plain": printable, "signed": "{:+.4g}".format, "p": "{:.2g}".format}
    return render(
        "compare.html",
        embed(figures),
        filters,
        compared=compared,
        whole=whole.to_dict(),
        rows=[_told(estimate, difference, p) for estimate, difference, p in rows],
        cases=[("gain", _cards(compared.gains)), ("loss", _cards(compared.losses))],
        num_more=max(0, len(compared.sources) - MOST_SOURCES),
    )


def _rows(compared: Comparison) -> list[tuple[Estimate, Difference, float]]:
    """A row for all documents and one for each source, where there are several."""
    rows = [("all documents", compared.whole, compared.whole.p_value)]
    if len(compared.sources) > 1:
        rows += [(one.source or "(no source)", one.difference, one.p_holm) for one in compared.sources[:MOST_SOURCES]]
    return [(_estimate(name, difference, p), difference, p) for name, difference, p in rows]


def _estimate(name: str, difference: Difference, p: float) -> Estimate:
    shown = printable(name)
    shown = shown if len(shown) <= MOST_NAME else f"{shown[: MOST_NAME - 1]}…"
    return Estimate(shown, *difference.main.interval, beside=f"{difference.num_documents:,} documents, p {p:.2g}")


def _told(estimate: Estimate, difference: Difference, p: float) -> dict[str, Any]:
    interval = "" if estimate.low != estimate.low else f"  [{estimate.low:+.4f}, {estimate.high:+.4f}]"
    numbers = f"{estimate.estimate:+.4f}{interval}"
    return {"name": estimate.name, "num_documents": difference.num_documents, "numbers": numbers, "p": p}


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
