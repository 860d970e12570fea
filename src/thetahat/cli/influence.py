"""`thetahat influence`."""

from collections.abc import Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

import typer

from thetahat.cli.effects import show_sequences
from thetahat.cli.table import Column, show_table
from thetahat.cli.words import Json, Quiet, emit, emit_json, emit_words, listen_to_library, say

SHOWN = 12  # groups of a table; --json has them all


def influence(
    model: str = typer.Argument(metavar="RUN[@STEP]"),
    rows: int = typer.Option(8, min=1, help="How many sequences to show at each end."),
    out: Path | None = typer.Option(None, help="Write all of them as Parquet.", show_default=False),
    quiet: bool = Quiet,
    json: bool = Json,
) -> None:
    """Show what the step after a checkpoint does to each sequence of its batch, and whom the run has learned from.

    A share is how much of the gradient a sequence is; all sum to 1, and what is negative pulled the other way.
    """
    listen_to_library(quiet=quiet)
    from thetahat.run.folder.absent import refuse_absent

    refuse_absent(model)
    from thetahat.verbs.influence import influence as look

    found = look(model, out=out)
    if json:
        emit_json(found)
        return
    told = found.to_dict()
    emit_words(f"step {told['step']}, from {told['checkpoint']}: {told['log_likelihood_per_token']:.4f} nats per token")
    emit_words(f"gradient norm {told['gradient_norm']:.4g}; the shares sum to {told['sum_of_shares']:.6f}\n")
    show_sequences(told["sequences"], rows)
    numbers = [
        Column("share", itemgetter("share"), ".2%"),
        Column("nats gained", itemgetter("gain"), ".2f"),
        Column("tokens", itemgetter("tokens"), ",.0f"),
    ]
    _groups("source", told["sources"], numbers)
    _groups("length", told["lengths"], numbers)
    if told["ledger"]:
        _account(told["ledger"])
    if not quiet:
        say(f"rows in {out}") if out else None
        say(f"Next: thetahat replay {_run(found.checkpoint)} --step {found.report.step}    to see its tokens and parts")


def _run(checkpoint: Path) -> str:
    from shlex import quote

    return quote(str(checkpoint.parent.parent))


def _groups(title: str, groups: list[dict[str, Any]], numbers: Sequence[Column]) -> None:
    columns = [
        Column(title, lambda group: group["name"] or "(none)"),
        Column("rows", itemgetter("rows"), ","),
        *numbers,
    ]
    emit("")
    show_table(groups[:SHOWN], columns, num_more=len(groups) - SHOWN)


def _account(told: dict[str, Any]) -> None:
    from thetahat.core.plain import counted

    records = told["records"]
    emit_words(
        f"\nthe run's ledger: {counted(told['rows'], 'row')} of {counted(records['number'], 'record')} in "
        f"{counted(told['steps'], 'step')}"
    )
    emit_words(
        f"N_eff {records['effective_number']:,.1f} records, Gini {records['gini']:.3f}, "
        f"the heaviest 1 % hold {records['top_share']:.1%}"
    )
    emit_words(f"the lighter half holds {records['lorenz'][5]:.1%}, the heaviest tenth {1 - records['lorenz'][9]:.1%}")
    shares = [Column(name, itemgetter(name), ".2%") for name in ("weight", "nats", "tokens")]
    _groups("source (shares)", told["sources"], shares)
    _groups("length (shares)", told["lengths"], shares)
