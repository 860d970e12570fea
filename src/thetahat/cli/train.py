"""`thetahat train`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from thetahat.cli.options import options_of, typed_as
from thetahat.cli.words import Json, Quiet, Words, emit_json, find_config, is_first_rank, listen_to_library


@dataclass(frozen=True, slots=True)
class Limits:
    """When a run ends or pauses, as it was typed."""

    max_steps: int | None = typer.Option(
        None, help="End the schedule and the run after so many updates.", show_default=False
    )
    max_tokens: int | None = typer.Option(
        None, help="End when so many targets have been learned from.", show_default=False
    )
    max_minutes: float | None = typer.Option(None, help="Save and pause after so many minutes.", show_default=False)

    def pairs(self) -> list[str]:
        """Those that are keys of the config, as they could be typed instead."""
        given = {"max_steps": self.max_steps, "max_tokens": self.max_tokens}
        return [f"{key}={value}" for key, value in given.items() if value is not None]


@options_of(Limits)
def train(
    words: list[str] | None = Words,
    out: Path | None = typer.Option(None, help="The run folder; default runs/RECIPE-DIGEST.", show_default=False),
    fresh: bool = typer.Option(False, "--fresh", help="Start anew in NAME-2, NAME-3, ..."),
    quiet: bool = Quiet,
    json: bool = Json,
    **typed: Any,
) -> None:
    """Train a model; started again, go on where it stopped.

    Without arguments: the quickstart, on bundled text, on the CPU.
    """
    limits = typed_as(Limits, typed)
    _check(out, limits)
    config = find_config([*(words or []), *limits.pairs()])
    listen_to_library(quiet=quiet)
    from thetahat.cli.show import announce, conclude, training_progress
    from thetahat.run.folder.folder import choose_folder
    from thetahat.run.start import result
    from thetahat.run.train import train as run_train

    folder = choose_folder(config, out, fresh=fresh)
    speaks = is_first_rank() and not quiet
    if speaks:
        announce(config, folder)
    num_reports = 0
    with training_progress(shown=speaks) as show:
        for report in run_train(config, folder, max_minutes=limits.max_minutes):
            show(report)
            num_reports += 1
    if not is_first_rank():
        return
    outcome = result(folder, config) | {"finished_before": num_reports == 0}
    if speaks:
        conclude(outcome, config, folder)
    if json:
        emit_json(outcome)


def _check(out: Path | None, limits: Limits) -> None:
    from thetahat.core.errors import ConfigError

    if limits.max_minutes is not None and not 0 <= limits.max_minutes < float("inf"):
        raise ConfigError(f"--max-minutes {limits.max_minutes}", allowed="a number of minutes, 0 or more")
    if out is not None and not out.name:
        raise ConfigError("--out names no folder of its own", cure="--out runs/NAME")
