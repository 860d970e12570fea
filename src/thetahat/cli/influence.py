"""`thetahat influence`."""

from pathlib import Path
from typing import Any

import typer

from thetahat.cli.words import Json, Quiet, emit, emit_json, in_line, listen_to_library, say


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
    from thetahat.verbs.influence import influence as look

    told = look(model, out=out).to_dict()
    if json:
        emit_json(told)
        return
    emit(f"step {told['step']}, from {told['checkpoint']}: {told['log_likelihood_per_token']:.4f} nats per token")
    emit(f"gradient norm {told['gradient_norm']:.4g}; the shares sum to {told['sum_of_shares']:.6f}\n")
    _sequences(told["sequences"], rows)
    for title, groups in (("source", told["sources"]), ("length", told["lengths"])):
        _table(title, groups, {"share": ("share", ".2%"), "gain": ("nats gained", ".2f"), "tokens": ("tokens", ",.0f")})
    if told["ledger"]:
        _account(told["ledger"])
    if not quiet:
        say(f"rows in {out}") if out else None
        say("Next: thetahat explain, to see which of their tokens count")


def _sequences(found: list[dict[str, Any]], rows: int) -> None:
    emit(f"{'share':>8} {'before':>10} {'after':>10} {'tokens':>7}  sequence")
    shown = found if len(found) <= 2 * rows else [*found[:rows], None, *found[-rows:]]
    for one in shown:
        if one is None:
            emit(f"{'...':>8}  {len(found) - 2 * rows} more")
            continue
        name = in_line(f"{one['id']} {one['part']}: {one['text']}".replace("\n", " "))
        emit(f"{one['share']:>8.2%} {one['before']:>10.2f} {one['after']:>10.2f} {one['num_tokens']:>7,}  {name[:90]}")


def _table(title: str, groups: list[dict[str, Any]], columns: dict[str, tuple[str, str]]) -> None:
    """`columns` says what stands above each number of a group, and how it is written."""
    emit(f"\n{title:<28} {'rows':>9} " + " ".join(f"{name:>12}" for name, _ in columns.values()))
    for group in groups[:12]:
        cells = (format(group[name], form) for name, (_, form) in columns.items())
        emit(f"{in_line(group['name'])[:28]:<28} {group['rows']:>9,} " + " ".join(f"{cell:>12}" for cell in cells))
    if len(groups) > 12:
        emit(f"... and {len(groups) - 12} more (--json has all)")


def _account(told: dict[str, Any]) -> None:
    records = told["records"]
    emit(f"\nthe run's ledger: {told['rows']:,} rows of {records['number']:,} records in {told['steps']:,} steps")
    emit(
        f"N_eff {records['effective_number']:,.1f} records, Gini {records['gini']:.3f}, "
        f"the heaviest 1 % hold {records['top_share']:.1%}"
    )
    emit(f"the lighter half holds {records['lorenz'][5]:.1%}, the heaviest tenth {1 - records['lorenz'][9]:.1%}")
    columns = {name: (name, ".2%") for name in ("weight", "nats", "tokens")}
    for title in ("sources", "lengths"):
        _table(f"{title[:-1]} (shares)", told[title], columns)
