"""`thetahat compare`."""

import shlex
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from thetahat.cli.words import (
    Json,
    Quiet,
    emit,
    emit_json,
    escape,
    in_line,
    is_first_rank,
    listen_to_library,
    say,
    split_words,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from thetahat.ledger.compare import Case, Comparison, SourceDifference

SOURCES = 24
ELSEWHERE = {"a", "b", "model_a", "model_b", "policy_a", "policy_b", "verdict", "notes", "sources", "gains", "losses"}
LINE = 60  # characters of a text


def compare(
    words: list[str] = typer.Argument(metavar="A B [DATA]... [KEY=VALUE]..."),
    html: Path | None = typer.Option(None, help="Write a page with figures and texts.", show_default=False),
    top: int = typer.Option(10, min=0, help="How many of the largest gains and losses to show."),
    quiet: bool = Quiet,
    json: bool = Json,
) -> None:
    """Say which of two models makes the same text more likely, where, and how sure that is.

    A and B are ledgers (thetahat score --out) or MODELs, which score DATA first; without DATA, what they held out.
    With DATA the largest gains and losses are shown with their text.
    """
    listen_to_library(quiet=quiet)
    from thetahat.core import store
    from thetahat.core.errors import ConfigError
    from thetahat.verbs.compare import compare as compare_models

    names, pairs = split_words(words)
    if len(names) < 2:
        raise ConfigError(f"{len(names)} of A and B came", cure="thetahat compare a.parquet b.parquet")
    if html:
        store.check_target(html, "--html")
    a, b, *data = names
    compared = compare_models(a, b, data, overrides=pairs, top=top)
    if not is_first_rank():
        return
    if html:
        from thetahat.cli.page import write_page

        write_page(html, compared)
    if json:
        emit_json(compared.to_dict())
    else:
        _show(compared)
    if not quiet:
        _conclude([*names, *pairs], html)


def _show(compared: "Comparison") -> None:
    plain = compared.to_dict()
    for letter, name, model in (("A", compared.a, compared.model_a), ("B", compared.b, compared.model_b)):
        emit(f"{letter}  {escape(name)}{f'  of {escape(model)}' if model not in {'', name} else ''}")
    emit("")
    emit(f"{compared.headline}: {compared.numbers}.\n")
    for name in [name for name in plain if name not in ELSEWHERE]:
        emit(f"{name:<36} {_said(plain[name])}")
    if len(compared.sources) > 1:
        _show_sources(compared.sources, compared.unit)
    _show_cases("largest gains of B", compared.gains)
    _show_cases("largest losses of B", compared.losses)
    for note in compared.notes:
        emit(f"\nnote: {escape(note)}")


def _said(value: Any) -> str:
    return "-" if value is None else str(value)


def _show_sources(sources: "Sequence[SourceDifference]", unit: str) -> None:
    emit(f"\n{'source':<28} {'documents':>9} {unit:>15} {'95% interval':>23} {'p (Holm)':>9} {'improved':>9}")
    for one in sources[:SOURCES]:
        estimate, low, high = one.difference.main.interval
        ends = "-" if isnan(low) else f"{low:+.5f} to {high:+.5f}"
        emit(
            f"{in_line(one.source)[-28:] or '-':<28} {one.difference.num_documents:>9,} {estimate:>+15.5f} {ends:>23}"
            f" {one.p_holm:>9.2g} {one.difference.improved.estimate:>9.1%}"
        )
    if len(sources) > SOURCES:
        emit(f"... and {len(sources) - SOURCES} sources more (--json has all)")


def _show_cases(title: str, cases: "Sequence[Case]") -> None:
    if not cases:
        return
    emit(f"\n{title:<44} {'nats':>10} {'bytes':>9}")
    for case in cases:
        name = case.id if case.part == "document" else f"{case.id} ({case.part})"
        text = escape(" ".join((case.text or "")[: 4 * LINE].split()))[:LINE]
        emit(f"{in_line(name):<44} {case.difference:>+10.2f} {case.num_bytes:>9,}  {text}".rstrip())


def _conclude(words: "Sequence[str]", html: Path | None) -> None:
    if html:
        say(f"page in {html}\nNext: open it in a browser")
    else:
        say(f"Next: thetahat compare {shlex.join(words)} --html compare.html")
