"""`thetahat scaling`."""

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from thetahat.cli.options import options_of, typed_as
from thetahat.cli.table import Column, show_table
from thetahat.cli.words import Json, Quiet, emit, emit_json, emit_words, in_line, listen_to_library, say

if TYPE_CHECKING:
    from thetahat.verbs.scaling import Point, Scaling


@dataclass(frozen=True, slots=True)
class Asked:
    """What the law is asked, as it was typed."""

    at: list[str] | None = typer.Option(
        None,
        metavar="N,D",
        help="The loss with N parameters and D tokens: 1e8,2e9; may come again.",
        show_default=False,
    )
    flops: list[float] | None = typer.Option(
        None, metavar="C", help="The best size for C = 6 N D operations; may come again.", show_default=False
    )


@options_of(Asked)
def scaling(
    runs: list[str] = typer.Argument(..., metavar="RUN...", help="Folders of finished runs of several sizes."),
    out: Path | None = typer.Option(
        None, help="A picture, too: a name that ends with .svg, .png or .pdf.", show_default=False
    ),
    quiet: bool = Quiet,
    json: bool = Json,
    **typed: Any,
) -> None:
    """Fit a scaling law to runs; say what a larger one would come to.

    L = E + A/N^alpha + B/D^beta of N parameters and D tokens, or a law of what differs. Every number has an interval.
    """
    listen_to_library(quiet=quiet)
    asked = typed_as(Asked, typed)
    pairs = [_pair(text) for text in asked.at or []]
    from thetahat.verbs.scaling import scaling as fit

    found = fit(*runs, at=pairs, flops=asked.flops or [])
    if out is not None:
        found.plot().save(out)
    if json:
        emit_json(found)
        return
    _show(found)
    if out is not None:
        emit(f"\n{out}")
    elif sys.stdout.isatty():
        emit("")
        emit(found.plot().text(shutil.get_terminal_size().columns, has_colours="NO_COLOR" not in os.environ))
    if not quiet and not (pairs or asked.flops):
        say("\nNext: --at N,D for the loss of another size, --flops C for the best size of a budget")


def _pair(text: str) -> tuple[float, float]:
    from thetahat.core.errors import ConfigError

    try:
        size, tokens = map(float, text.split(","))
    except ValueError:
        raise ConfigError(
            f"--at {text}", allowed="parameters and tokens, as two numbers", cure="--at 1e8,2e9"
        ) from None
    return size, tokens


def _show(found: "Scaling") -> None:
    columns = [
        Column("run", lambda one: in_line(one.run)),
        Column("parameters", lambda one: one.num_parameters, ","),
        Column("tokens", lambda one: one.tokens, ","),
        Column("nats/token", lambda one: one.loss, ".4f"),
        Column("law", lambda one: one.law, ".4f"),
        Column("difference", lambda one: one.difference, "+.2%"),
    ]
    show_table(sorted(found.runs, key=lambda one: one.flops), columns)
    reason = f" (of {found.law} alone: {found.why})" if found.why else ""
    emit_words(f"\n{found.formula}{reason}; a run's own noise is {found.noise:.2%} of its loss")
    numbers = list(found.parameters.items())
    if found.growth is not None:
        numbers.append(("beta / (alpha + beta)", found.growth))
    show_table(
        numbers,
        [
            Column("", lambda one: one[0]),
            Column("value", lambda one: one[1].value, ".4g"),
            Column("95% from", lambda one: one[1].ci95[0], ".4g"),
            Column("to", lambda one: one[1].ci95[1], ".4g"),
        ],
    )
    _points(found.at, "\nof these sizes")
    _points(found.budgets, "\nof these operations, at the best size" if found.growth else "\nof these operations")


def _points(points: "tuple[Point, ...]", title: str) -> None:
    if not points:
        return
    emit_words(title)

    def span(values: tuple[float, float], form: str) -> str:
        return f"{values[0]:{form}} to {values[1]:{form}}"

    is_chosen = any(one.num_parameters.ci95[0] != one.num_parameters.ci95[1] for one in points)
    chosen = [Column("95%", lambda one: span(one.num_parameters.ci95, ".3g"))] if is_chosen else []
    show_table(
        points,
        [
            Column("FLOPs", lambda one: one.flops, ".3g"),
            Column("parameters", lambda one: one.num_parameters.value, ".3g"),
            *chosen,
            Column("tokens", lambda one: one.tokens.value, ".3g"),
            Column("nats/token", lambda one: one.loss.value, ".4f"),
            Column("95%", lambda one: span(one.loss.ci95, ".4f")),
            Column("of one run", lambda one: span(one.run_ci95, ".4f")),
        ],
    )
