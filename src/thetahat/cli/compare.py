"""`thetahat compare`."""

import re
import shlex
from math import fsum, isnan, log
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from thetahat.cli.table import INTERVAL, Column, interval, show_table, show_values
from thetahat.cli.words import (
    Json,
    Quiet,
    emit,
    emit_json,
    emit_words,
    escape,
    is_first_rank,
    listen_to_library,
    say,
    split_words,
)
from thetahat.core.plain import counted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from thetahat.ledger.compare import Case, Comparison, Difference, SourceDifference
    from thetahat.statistics.interval import Interval

SOURCES = 24
ELSEWHERE = {"a", "b", "model_a", "model_b", "policy_a", "policy_b", "verdict", "notes", "sources", "gains", "losses"}
LINE = 60  # characters of a text
WORDS = {
    "p_value": "p",
    "improved_share": "share that B makes more likely",
    "num_units": "independent units",
    "interval_unit": "units",
    "bits_per_byte_saved": "bits per byte that B saves",
    "bootstrap_ci95": "interval by bootstrap",
    "bits_per_byte_saved_bootstrap_ci95": "interval of these by bootstrap",
    "median_bits_per_byte_saved": "median of these",
}
"""How names of `--json` are shown, where their own words do not say it."""


def compare(
    words: list[str] = typer.Argument(metavar="A B [DATA]... [KEY=VALUE]..."),
    html: Path | None = typer.Option(None, help="Write a page with figures and texts.", show_default=False),
    top: int = typer.Option(10, min=0, help="How many of the largest gains and losses to show."),
    lower_bound: bool = typer.Option(
        False, "--lower-bound", help="Compare bits per byte also where a tokenizer loses some of the text."
    ),
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
    from thetahat.run.folder.absent import refuse_absent

    names, pairs = split_words(words)
    if len(names) < 2:
        raise ConfigError(
            f"{len(names)} of A and B came",
            allowed="two models (runs, checkpoints), or two ledgers that thetahat score --out wrote",
            cure=f"thetahat compare {names[0] if names else 'runs/NAME'} OTHER",
        )
    if html:
        store.check_target(html, "--html")
    a, b, *data = names
    refuse_absent(*(name for name in (a, b) if not name.endswith(".parquet")))  # those are ledgers
    from thetahat.verbs.compare import compare as compare_models

    compared = compare_models(a, b, data, overrides=pairs, top=top, lower_bound=lower_bound)
    if not is_first_rank():
        return
    if html:
        from thetahat.cli.page import write_page

        write_page(html, compared)
    if json:
        emit_json(compared)
    else:
        _show(compared)
    if not quiet:
        _conclude([*names, *pairs], html)


def _show(compared: "Comparison") -> None:
    plain = compared.to_dict()
    for letter, name, model in (("A", compared.a, compared.model_a), ("B", compared.b, compared.model_b)):
        emit(f"{letter}  {escape(name)}{f'  of {escape(model)}' if model not in {'', name} else ''}")
    emit("")
    emit_words(f"{compared.headline}: {compared.numbers}.\n")
    plain["p_value"] = f"{compared.whole.p_value:.2g}"
    show_values({_in_words(name, plain): value for name, value in plain.items() if name not in ELSEWHERE})
    if len(compared.sources) > 1:
        _show_sources(compared.sources, compared.unit)
    _show_cases("largest gains of B", compared.gains)
    _show_cases("largest losses of B", compared.losses)
    for note in compared.notes:
        emit_words(f"\nnote: {escape(note)}")


def _in_words(name: str, plain: "Mapping[str, Any]") -> str:
    """A name of `--json` as it is shown; `ci95` is the interval of the first number."""
    if name == "ci95":
        name = f"nats_per_{'label' if 'num_labels' in plain else 'token'}_difference{INTERVAL}"
    if name in WORDS:
        return WORDS[name]
    if (whole := name.removesuffix(INTERVAL)) != name and whole in plain:
        return f"{_in_words(whole, plain)}{INTERVAL}"
    return re.sub("_([ab])$", lambda found: f" of {found[1].upper()}", name).replace("difference", "(B - A)")


def _show_sources(sources: "Sequence[SourceDifference]", unit: str) -> None:
    columns = [
        Column("source", lambda one: one.source or "(none)"),
        Column("documents", attrgetter("difference.num_documents"), ","),
        Column(unit, attrgetter("difference.main.interval.estimate"), "+.5f"),
        Column("95 %", lambda one: _ends(one.difference.main.interval), ""),
        Column("p (Holm)", attrgetter("p_holm"), ".2g"),
        Column("improved", attrgetter("difference.improved.estimate"), ".1%"),
    ]
    told = [one for one in sources if not isnan(one.difference.main.interval.low)]
    emit("")
    if told:
        show_table(told[:SOURCES], columns, num_more=len(told) - SOURCES)
    if few := [one.difference for one in sources if one not in told]:
        start = "... and" if told else "by source:"
        count = counted(len(few), "source")
        emit_words(f"{start} {count} too small for an interval, together {_sum_of(few, unit)}: --json has all")


def _sum_of(few: "Sequence[Difference]", unit: str) -> str:
    """What several groups are together."""
    nats = fsum(one.log_likelihood_b - one.log_likelihood_a for one in few)
    tokens, size = sum(one.num_tokens or 0 for one in few), sum(one.num_bytes for one in few)
    mean = nats / tokens if unit.startswith("nats") else nats / log(2) / size
    return f"{counted(sum(one.num_documents for one in few), 'document')}, {mean:+.5f} {unit}"


def _ends(found: "Interval") -> str | None:
    return None if isnan(found.low) else interval(found[1:], "+.5f")


def _show_cases(title: str, cases: "Sequence[Case]") -> None:
    if not cases:
        return
    columns = [
        Column(title, lambda case: case.id if case.part == "document" else f"{case.id} ({case.part})"),
        Column("nats", attrgetter("difference"), "+.2f"),
        Column("bytes", attrgetter("num_bytes"), ","),
        Column("", lambda case: " ".join((case.text or "")[: 4 * LINE].split())[:LINE]),
    ]
    emit("")
    show_table(cases, columns)


def _conclude(words: "Sequence[str]", html: Path | None) -> None:
    if html:
        say(f"page in {html}\nNext: open it in a browser")
    else:
        say(f"Next: thetahat compare {shlex.join(words)} --html compare.html")
