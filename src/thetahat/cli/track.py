"""`thetahat track`."""

import os
import sys
from pathlib import Path

import typer

from thetahat.cli.words import Quiet, fail, listen_to_library, say


def track(
    run: str = typer.Argument(..., metavar="RUN", help="A run folder."),
    to: list[str] = typer.Option(
        [], help="tensorboard, wandb, trackio or mlflow; may come again. Else those of its config.", show_default=False
    ),
    quiet: bool = Quiet,
    attached: int | None = typer.Option(None, hidden=True),
) -> None:
    """Show a run in TensorBoard, Weights & Biases, trackio or MLflow: what it has logged, as far as they lack it.

    A run with track=[...] in its config does so while it trains.
    """
    from thetahat.core.errors import ThetahatError

    listen_to_library(quiet=quiet)
    from thetahat.verbs.track import attend, track as bring

    if attached is None:
        bring(run, to, (lambda line: None) if quiet else say)
        return
    speaks = os.fdopen(os.dup(1), "w", buffering=1)  # what libraries print goes to the log
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    try:
        attend(Path(run), attached, lambda line: print(line, file=speaks))
    except ThetahatError as error:
        print(f"warning: {str(error).splitlines()[0]}", file=speaks)
        fail(error)
