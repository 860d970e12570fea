"""`thetahat select`."""

from pathlib import Path
from typing import Any

import typer

from thetahat.cli.words import Json, Quiet, emit, emit_json, is_first_rank, listen_to_library, say, split_words


def select(
    words: list[str] = typer.Argument(metavar="RUN [DATA]... [KEY=VALUE]..."),
    report: list[str] = typer.Option(
        [], help="Documents to report the choice on; else half of DATA.", show_default=False
    ),
    averages: int = typer.Option(5, min=1, help="Also means of the last 2, 3, ... up to so many checkpoints."),
    save: Path | None = typer.Option(None, help="Write the best as a checkpoint folder.", show_default=False),
    quiet: bool = Quiet,
    json: bool = Json,
) -> None:
    """Say which checkpoint of a run makes held-out text most likely, and how sure that is.

    Half of the documents choose, the other half say how good the choice is. Without DATA: what the run held out.
    """
    listen_to_library(quiet=quiet)
    from thetahat.core.errors import ConfigError
    from thetahat.verbs.select import select as select_checkpoint, to_plain

    names, pairs = split_words(words)
    if not names:
        raise ConfigError("no RUN came", cure="thetahat select runs/NAME my.jsonl")
    run, *data = names
    selected = select_checkpoint(run, data, report=report, averages=averages, save=save, overrides=pairs)
    if not is_first_rank():
        return
    plain = to_plain(selected)
    if json:
        emit_json(plain)
    else:
        _show(plain)
        if selected.best.summary.caution:
            emit(f"note: {selected.best.summary.caution}")
    if not quiet:
        best = plain["best"]
        if save or best.isdigit():
            say(f"Next: thetahat score {save or f'{run}@{best}'} OTHER")
        else:
            say(f"Next: the same with --save DIR, which writes the {best} as a model")


def _show(plain: dict[str, Any]) -> None:
    """A table of the candidates, the choices, and what is to be expected of them."""
    emit(f"{'checkpoint':<22} {'bits/byte':>10} {'± data':>8}   {'behind best':>11} {'± paired':>9}")
    for one in plain["candidates"]:
        roles = {"best": plain["best"], "the earliest as good within one error": plain["one_standard_error"]}
        mark = ", ".join(role for role, name in roles.items() if name == one["name"])
        emit(
            f"{one['name']:<22} {one['bits_per_byte']:>10.4f} {_number(one['error']):>8}   {one['behind']:>11.4f} "
            f"{_number(one['behind_error']):>9}  {mark}"
        )
    unit = plain["interval_unit"]
    only = "" if unit == "documents" else ": it says nothing of other documents"
    emit(f"± is one standard error, over {unit}{only}")
    noise = plain["training_noise"]
    if noise is not None:
        emit(f"\nnoise of training, from checkpoint to checkpoint beside the trend: {noise:.4f} bits per byte")
    emit(f"\non {plain['num_report_units']:,} {unit} that chose nothing:")
    for role, title in (("best", "best"), ("one_standard_error", "within one error"), ("last", "last")):
        found = plain["report"][role]
        low_high = found["saves_over_last_ci95"]
        is_last = found["name"] == plain["report"]["last"]["name"]
        saved = "" if is_last else f"  saves {found['saves_over_last']:+.4f} over the last"
        ends = f" (95 %: {low_high[0]:+.4f} to {low_high[1]:+.4f})" if saved and low_high else ""
        own = found["bits_per_byte_ci95"]
        within = f" (95 %: {own[0]:.4f} to {own[1]:.4f})" if own else ""
        emit(f"{title + ': ' + found['name']:<40} {found['bits_per_byte']:.4f} bits/byte{within}{saved}{ends}")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
