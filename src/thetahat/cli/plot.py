"""`thetahat plot`."""

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from thetahat.cli.options import options_of, typed_as
from thetahat.cli.words import Json, Quiet, emit, emit_json, listen_to_library, say


@dataclass(frozen=True, slots=True)
class Shown:
    """What is drawn, as it was typed."""

    y: list[str] = typer.Option(["likelihood"], help="likelihood, bits, gradient, rate, updates or speed; repeatable.")
    x: str = typer.Option("step", help="step, targets or minutes.")
    smooth: int | None = typer.Option(
        None, min=1, help="Lines are means of so many steps; default a 60th of the run.", show_default=False
    )


@options_of(Shown)
def plot(
    runs: list[str] = typer.Argument(..., metavar="RUN...", help="Run folders; several are drawn over one another."),
    out: Path | None = typer.Option(
        None, help="A picture instead: a name that ends with .svg, .png or .pdf.", show_default=False
    ),
    quiet: bool = Quiet,
    json: bool = Json,
    **typed: Any,
) -> None:
    """Draw the curves of runs, in the terminal or as a picture."""
    listen_to_library(quiet=quiet)
    shown = typed_as(Shown, typed)
    from thetahat.verbs.plot import plot as draw

    drawn = draw(*runs, y=shown.y, x=shown.x, smooth=shown.smooth)
    if out is not None:
        drawn.save(out)
    if not quiet:
        for note in drawn.notes:
            say(note)
    if json:
        emit_json({"axis": drawn.axis, "smooth": drawn.smooth, "out": out, "panels": drawn.panels})
    elif out is not None:
        emit(str(out))
    else:
        has_colours = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        emit(drawn.text(shutil.get_terminal_size().columns, has_colours=has_colours))
        if drawn.smooth > 1 and not quiet:
            say(f"Lines are means of {drawn.smooth} steps; --smooth 1 for each step.")
