"""`thetahat report`."""

from pathlib import Path

import typer

from thetahat.cli.words import Json, Quiet, emit, emit_json, listen_to_library, say


def report(
    runs: list[str] = typer.Argument(..., metavar="RUN...", help="Run folders; several are drawn over one another."),
    out: Path | None = typer.Option(None, help="The file; default RUN/report.html.", show_default=False),
    quiet: bool = Quiet,
    json: bool = Json,
) -> None:
    """Write a page of a run: curves, where time and weight went, extremes, config. One file, which loads nothing."""
    listen_to_library(quiet=quiet)
    from thetahat.verbs.report import report as write

    written = write(*runs, out=out)
    if not quiet:
        for note in written.notes:
            say(note)
    if json:
        emit_json(written)
    else:
        emit(str(written.path))
