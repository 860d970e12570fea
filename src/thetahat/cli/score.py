"""`thetahat score`."""

import math
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from thetahat.cli.table import Column, interval, show_table, show_values
from thetahat.cli.words import Json, Quiet, emit, emit_json, is_first_rank, listen_to_library, say, split_words

if TYPE_CHECKING:
    from thetahat.ledger.breakdown import GroupLikelihood
    from thetahat.verbs.score import Score

SHOWN = 12  # groups of a table; --json has them all
MEASURES = (
    Column("documents", attrgetter("num_documents"), ","),
    Column("tokens", attrgetter("num_tokens"), ","),
    Column("nats/token", attrgetter("nats_per_token"), ".4f"),
    Column("bits/byte", attrgetter("bits_per_byte"), ".4f"),
    Column("95 %", lambda group: interval(group.bits_per_byte_ci95, ".4f"), ""),
)
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

    MODEL is a run folder, RUN@best, RUN@STEP, a checkpoint, or a folder of transformers. Without DATA: what the run
    held out. With --out, the same command goes on where it was interrupted.
    """
    listen_to_library(quiet=quiet)
    from thetahat.cli.progress import token_progress
    from thetahat.core.errors import ConfigError, NonFiniteError
    from thetahat.run.signals import interrupting
    from thetahat.verbs.load import load
    from thetahat.verbs.score import score as score_text

    names, pairs = split_words(words)
    if not names:
        raise ConfigError("no MODEL came", cure="thetahat score runs/NAME my.txt")
    model, *data = names
    what, cure = KEPT if out else NOT_KEPT
    with interrupting(what, cure), token_progress(shown=is_first_rank() and not quiet) as shows:
        scored = score_text(load(model, tuple(pairs)), data, out=out, tokens=tokens, shows=shows)
    if not is_first_rank():
        return
    if json:
        emit_json(scored)
    else:
        _show(scored)
    if not math.isfinite(scored.summary.log_likelihood):
        sick = [row.id for row in scored.rows if not row.log_prob > float("-inf")]
        shown = ", ".join(sick[:8])
        raise NonFiniteError(f"the likelihood is {scored.summary.log_likelihood}; documents: {shown}")
    if not quiet:
        _conclude(model, out, scored)


def _show(scored: "Score") -> None:
    plain = scored.to_dict()
    groups = plain.pop("by")
    show_values(plain)
    for name, members in groups.items():
        _show_groups(name, members)
    if not scored.summary.lossless:
        emit("\nnote: the tokenizer loses some of the text, so that bits per byte are a lower bound")
    if scored.summary.caution:
        emit(f"\nnote: {scored.summary.caution}")


def _show_groups(name: str, groups: "list[GroupLikelihood]") -> None:
    """One table of the groups that have an interval: the largest where there are many; the rest is counted."""
    from thetahat.core.plain import counted
    from thetahat.statistics.interval import MIN_DOCUMENTS

    told = [group for group in groups if group.num_documents >= MIN_DOCUMENTS]
    smallest = sorted(told, key=lambda group: -group.num_tokens)[SHOWN:]
    emit("")
    if told:
        names = Column(f"by {name}", lambda group: group.name or "(none)")
        shown = [group for group in told if group not in smallest]
        show_table(shown, [names, *MEASURES], num_more=len(smallest))
    if few := len(groups) - len(told):
        start = "... and" if told else f"by {name}:"
        emit(f"{start} {counted(few, 'group')} of fewer than {MIN_DOCUMENTS} documents: --json has all")


def _conclude(model: str, out: Path | None, scored: "Score") -> None:
    from thetahat.core.plain import counted

    noise = scored.noise
    if noise.num_sequences:
        count = counted(noise.num_sequences, "sequence")
        apart = f"at most {noise.nats_per_token:.1e} nats a token"
        say(f"rounding: {count} scored once more, each outside of its batch, which changed {apart}")
    if scored.tokens_cut or scored.prompt_cut:
        say(
            f"cut by data.over_long: {counted(scored.tokens_cut, 'target')} not scored, "
            f"{counted(scored.prompt_cut, 'token')} of prompts not read"
        )
    if out:
        say(f"ledger in {out}")
        say(f"Next: thetahat compare {out} OTHER.parquet")
    else:
        say(f"Next: thetahat score {model} DATA --out ledger.parquet, to compare with another model's")
