"""`thetahat train`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from thetahat.cli.options import options_of, typed_as
from thetahat.cli.words import Json, Quiet, Words, emit_json, find_config, is_first_rank, listen_to_library, split_words


@dataclass(frozen=True, slots=True)
class Place:
    """Which folder a run is in, and which state it begins from, as it was typed."""

    branch: str | None = typer.Option(
        None,
        metavar="RUN[@STEP|@best]",
        help="Begin a new run from the whole state of RUN, with the KEY=VALUE changes.",
        show_default=False,
    )
    out: Path | None = typer.Option(None, help="The run folder; default runs/RECIPE-DIGEST.", show_default=False)
    fresh: bool = typer.Option(False, "--fresh", help="Start anew in NAME-2, NAME-3, ...")


@dataclass(frozen=True, slots=True)
class Limits:
    """When a run ends or pauses, as it was typed."""

    max_steps: int | None = typer.Option(
        None, help="End the schedule and the run after so many updates.", show_default=False
    )
    max_tokens: int | None = typer.Option(
        None, help="End when so many targets have been learned from.", show_default=False
    )
    max_minutes: float | None = typer.Option(
        None, help="Save and pause after so many minutes, preparation included.", show_default=False
    )

    def pairs(self) -> list[str]:
        """Those that are keys of the config, as they could be typed instead."""
        given = {"max_steps": self.max_steps, "max_tokens": self.max_tokens}
        return [f"{key}={value}" for key, value in given.items() if value is not None]


@options_of(Place, Limits)
def train(words: list[str] | None = Words, quiet: bool = Quiet, json: bool = Json, **typed: Any) -> None:
    """Train a model; started again, go on where it stopped.

    Without arguments: the quickstart, on bundled text, on the CPU. With a run folder alone: that run goes on. With the
    folder of a model and --out, or base=MODEL: a new run starts from its parameters; with --branch RUN, from its whole
    state.
    """
    place, limits = typed_as(Place, typed), typed_as(Limits, typed)
    _check(place, limits)
    listen_to_library(quiet=quiet)
    config, folder = _find(words or [], place, limits.pairs())
    from thetahat.cli.show import announce, conclude, training_progress
    from thetahat.run.start import result
    from thetahat.run.train import train as run_train

    speaks = is_first_rank() and not quiet
    if speaks:
        announce(config, folder)
    num_reports = 0
    with training_progress(config, shown=speaks) as show:
        for report in run_train(config, folder, max_minutes=limits.max_minutes, evaluating=show.evaluating):
            show(report)
            num_reports += 1
    if not is_first_rank():
        return
    outcome = result(folder, config) | {"finished_before": num_reports == 0}
    if speaks:
        conclude(outcome, config, folder)
    if json:
        emit_json(outcome)


def _check(place: Place, limits: Limits) -> None:
    from thetahat.core.errors import ConfigError

    if limits.max_minutes is not None and not 0 <= limits.max_minutes < float("inf"):
        raise ConfigError(f"--max-minutes {limits.max_minutes}", allowed="a number of minutes, 0 or more")
    if place.out is not None and not place.out.name:
        raise ConfigError("--out names no folder of its own", cure="--out runs/NAME")


def _find(words: list[str], place: Place, limits: list[str]) -> tuple[Any, Path]:
    """The config and the folder: of a branch, of a run that goes on, or of a run that starts."""
    from thetahat.run.folder.files import is_run

    names, pairs = split_words(words)
    pairs += limits
    if place.branch is not None:
        config, out = _branch(place.branch, names, pairs, place), place.out
    elif len(names) == 1 and _goes_on(names[0], pairs, place) and is_run(Path(names[0])):
        config, out = _again(Path(names[0]), pairs), Path(names[0])
    else:
        config, out = find_config([*words, *limits]), place.out
    from thetahat.run.folder.folder import choose_folder  # needs torch, which a mistyped key does not wait for

    if place.fresh:
        from thetahat.run.start import check

        check(config)  # before ranks meet, which they do to choose
    return config, choose_folder(config, out, fresh=place.fresh)


def _goes_on(name: str, pairs: list[str], place: Place) -> bool:
    """Whether a folder that is named alone means that its run goes on, and not that another starts from its model."""
    from thetahat.recipes.catalogue import RECIPES

    return name not in RECIPES and place.out is None and not any(pair.startswith("base=") for pair in pairs)


def _again(folder: Path, pairs: list[str]) -> Any:
    """The config of a run, with what was typed: what only watches may be another, the rest is refused on entering."""
    from thetahat.core.config import override
    from thetahat.run.folder.config import read_config

    return override(read_config(folder), pairs)


def _branch(name: str, names: list[str], pairs: list[str], place: Place) -> Any:
    """The config of a branch of the run `name`; one that has begun in `place.out` goes on, whatever became of RUN."""
    from thetahat.core.errors import ConfigError
    from thetahat.run.folder.absent import refuse_absent

    if names:
        raise ConfigError(
            f"--branch {name} brings the config of that run, and {names[0]} names another",
            cure=f"only KEY=VALUE behind it; or thetahat train {names[0]} base={name}, to start from its model",
        )
    if place.out is None or not place.out.exists():  # one that has begun goes on, whatever became of its parent
        refuse_absent(name)
    from thetahat.run.branch import begun_branch, branch

    begun = None if place.fresh or place.out is None else begun_branch(place.out, name, pairs)
    return begun or branch(name, pairs)
