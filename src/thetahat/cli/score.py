"""`thetahat score`."""

from pathlib import Path
from typing import Any

import typer

from thetahat.cli.words import Json, Quiet, emit, emit_json, in_line, is_first_rank, listen_to_library, say, split_words

SHOWN = 12  # groups of a table; --json has them all
KEPT = "interrupted: what was scored is kept", "start the same command again to go on"
NOT_KEPT = "interrupted", "--out ledger.parquet, with which the same command goes on where it stopped"


def score(
    words: list[str] = typer.Argument(metavar="MODEL DATA... [KEY=VALUE]..."),
    out: Path | None = typer.Option(
        None, help="Write the ledger, a row a document or turn, as Parquet.", show_default=False
    ),
    tokens: Path | None = typer.Option(
        None, help="Write a row a token, with its context length, as Parquet.", show_default=False
    ),
    quiet: bool = Quiet,
    json: bool = Json,
) -> None:
    """Say how likely a text is under a model, exactly and with an interval.

    MODEL is a run folder, RUN@best, RUN@STEP or a checkpoint folder. Without DATA: what the run held out. With --out,
    the same command goes on where it was interrupted.
    """
    listen_to_library(quiet=quiet)
    from thetahat.cli.progress import tokens_progress
    from thetahat.core.errors import ConfigError, NonFiniteError
    from thetahat.run.signals import interrupting
    from thetahat.verbs.load import load
    from thetahat.verbs.score import score as score_text

    names, pairs = split_words(words)
    if not names:
        raise ConfigError("no MODEL came", cure="thetahat score runs/NAME my.txt")
    model, *data = names
    what, cure = KEPT if out else NOT_KEPT
    with interrupting(what, cure), tokens_progress(shown=is_first_rank() and not quiet) as shows:
        scored = score_text(load(model, tuple(pairs)), data, out=out, tokens=tokens, shows=shows)
    if not is_first_rank():
        return
    numbers = _numbers(scored)
    groups = {name: [group.to_dict() for group in groups] for name, groups in scored.groups.items()}
    if json:
        emit_json(numbers | {"by": groups})
    else:
        for name, value in numbers.items():
            emit(f"{name:<26} {'-' if value is None else value}")
        for name, table in groups.items():
            _show(name, table)
        if scored.summary.caution:
            emit(f"\nnote: {scored.summary.caution}")
    if isinstance(numbers["log_likelihood"], str):
        sick = [row.id for row in scored.rows if not row.log_prob > float("-inf")]
        raise NonFiniteError(f"the likelihood is {numbers['log_likelihood']}; documents: {', '.join(sick[:8])}")
    if not quiet:
        _conclude(model, out, scored)


def _numbers(scored: Any) -> dict[str, Any]:
    what = {"model": scored.metadata["model"], "data": scored.metadata["data_paths"].replace("\n", ", ")}
    return (
        {name: in_line(value) for name, value in what.items()}
        | scored.summary.to_dict()
        | {
            "noise_floor_nats_per_token": scored.noise.nats_per_token,
            "tokens_cut": scored.tokens_cut,
            "prompt_tokens_cut": scored.prompt_cut,
            "interval_unit": scored.summary.interval_unit,
            "policy": scored.policy,
        }
    )


def _show(name: str, groups: list[dict[str, Any]]) -> None:
    """One table of the groups that have an interval: the largest where there are many; the rest is counted."""
    from thetahat.statistics.interval import MIN_DOCUMENTS

    told: list[dict[str, Any]] = [
        group | {"name": in_line(group["name"])} for group in groups if group["num_documents"] >= MIN_DOCUMENTS
    ]
    largest = sorted(told, key=lambda group: -group["num_tokens"])[:SHOWN]
    width = max([26, *(len(group["name"]) + 1 for group in largest)])
    if told:
        emit(f"\n{'by ' + name:<{width}} {'documents':>10} {'tokens':>12} {'nats/token':>11} {'bits/byte':>10}   95 %")
    for group in told:
        if group in largest:
            _show_group(group, width)
    if len(told) > SHOWN:
        emit(f"... and {len(told) - SHOWN} smaller ones: --json")
    if few := len(groups) - len(told):
        start = "... and" if told else f"\nby {name}:"
        emit(f"{start} {few} group{'s' if few > 1 else ''} of fewer than {MIN_DOCUMENTS} documents: --json")


def _show_group(group: dict[str, Any], width: int) -> None:
    numbers = "".join(
        f" {value:>{room}.4f}" if isinstance(value, float) else f" {value:>{room}}"
        for value, room in ((group["nats_per_token"], 11), (group["bits_per_byte"], 10))
    )
    ends = group["bits_per_byte_ci95"]
    interval = f"{ends[0]:.4f} to {ends[1]:.4f}" if ends else "-"
    counts = f"{group['num_documents']:>10,} {group['num_tokens']:>12,}"
    emit(f"{group['name'] or '(none)':<{width}} {counts}{numbers}   {interval}")


def _conclude(model: str, out: Path | None, scored: Any) -> None:
    noise = scored.noise
    if noise.num_sequences:
        count = f"{noise.num_sequences} sequence{'s' if noise.num_sequences > 1 else ''}"
        say(f"{count} read again, alone: {noise.nats_per_token:.1e} nats a token apart at most")
    if scored.tokens_cut or scored.prompt_cut:
        say(
            f"cut by data.over_long: {scored.tokens_cut:,} tokens not scored, {scored.prompt_cut:,} of prompts not read"
        )
    if out:
        say(f"ledger in {out}")
        say(f"Next: thetahat compare {out} OTHER.parquet")
    else:
        say(f"Next: thetahat score {model} DATA --out ledger.parquet, to compare with another model's")
