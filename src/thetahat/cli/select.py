"""`thetahat select`."""

from operator import itemgetter
from pathlib import Path
from typing import Any

import typer

from thetahat.cli.table import Column, interval, show_table
from thetahat.cli.words import (
    Json,
    Quiet,
    emit_json,
    emit_words,
    is_first_rank,
    listen_to_library,
    say,
    split_words,
)


def select(
    words: list[str] = typer.Argument(metavar="RUN [DATA]... [KEY=VALUE]..."),
    report: list[str] = typer.Option(
        [], help="Documents to report the choice on; else half of DATA.", show_default=False
    ),
    averages: int = typer.Option(5, min=1, help="Also means of the last 2, 3, ... up to so many (RUN@mean:K)."),
    save: Path | None = typer.Option(None, help="Write the best as a checkpoint folder.", show_default=False),
    quiet: bool = Quiet,
    json: bool = Json,
) -> None:
    """Say which checkpoint of a run, or average, makes held-out text most likely, and how sure that is.

    Half of the documents choose, the other half say how good the choice is. Without DATA: what the run held out.
    """
    listen_to_library(quiet=quiet)
    from thetahat.core.errors import ConfigError
    from thetahat.run.folder.absent import refuse_absent

    names, pairs = split_words(words)
    if not names:
        raise ConfigError("no RUN came", cure="thetahat select runs/NAME my.jsonl")
    run, *data = names
    refuse_absent(run)
    from thetahat.verbs.select import select as select_checkpoint

    selected = select_checkpoint(run, data, report=report, averages=averages, save=save, overrides=pairs)
    if not is_first_rank():
        return
    if json:
        emit_json(selected)
    else:
        _show(selected.to_dict(), selected.selection.unit)
        if selected.best.summary.caution:
            emit_words(f"note: {selected.best.summary.caution}")
    if not quiet:
        say(f"Next: thetahat score {save or f'{run}@{selected.best.name}'} OTHER")


def _show(plain: dict[str, Any], unit_of_values: str) -> None:
    """A table of the candidates, the choices, and what is to be expected of them."""
    from thetahat.ledger.summary import count_of

    roles = {"best": plain["best"], "the earliest as good within one error": plain["one_standard_error"]}
    columns = [
        Column("checkpoint", itemgetter("name")),
        _value(unit_of_values),
        Column("± data", itemgetter("error"), ".4f"),
        Column("behind best", itemgetter("behind"), ".4f"),
        Column("± paired", itemgetter("behind_error"), ".4f"),
        Column("", lambda one: ", ".join(role for role, name in roles.items() if name == one["name"])),
    ]
    show_table(plain["candidates"], columns)
    unit = plain["interval_unit"]
    only = "" if unit == "documents" else ": it says nothing of other documents"
    emit_words(f"± is one standard error, over {unit}{only}")
    noise = plain["training_noise"]
    if noise is not None:
        emit_words(f"\nnoise of training, from checkpoint to checkpoint beside the trend: {noise:.4f} {unit_of_values}")
    emit_words(f"\non {count_of(plain['num_report_units'], unit)} that chose nothing:\n")
    _show_report(plain["report"], unit_of_values)


def _value(unit: str) -> Column:
    return Column(unit.replace(" per ", "/"), itemgetter(unit.replace(" ", "_")), ".4f")


def _show_report(report: dict[str, Any], unit: str) -> None:
    titles = {"best": "best", "one_standard_error": "within one error", "last": "last"}
    columns = [
        Column("", itemgetter("title")),
        Column("checkpoint", itemgetter("name")),
        _value(unit),
        Column("95 %", lambda one: interval(one[f"{unit.replace(' ', '_')}_ci95"], ".4f"), ""),
        Column("saves over last", itemgetter("saves_over_last"), "+.4f"),
        Column("95 %", lambda one: interval(one["saves_over_last_ci95"], "+.4f"), ""),
    ]
    nothing = {"saves_over_last": None, "saves_over_last_ci95": None}  # of the last over itself
    rows = [{"title": title, **report[role]} for role, title in titles.items()]
    show_table([row | nothing if row["name"] == report["last"]["name"] else row for row in rows], columns)
