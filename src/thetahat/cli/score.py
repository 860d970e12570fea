"""`thetahat score`."""

import math
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from thetahat.cli.table import Column, interval, show_table, show_values
from thetahat.cli.words import (
    Json,
    Quiet,
    emit,
    emit_json,
    emit_words,
    is_first_rank,
    listen_to_library,
    say,
    split_words,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from thetahat.ledger.breakdown import GroupLikelihood
    from thetahat.ledger.classification import Classification
    from thetahat.run.card import Card
    from thetahat.verbs.score import Score

SHOWN = 12  # groups of a table; --json has them all
MEASURES = (
    Column("documents", attrgetter("num_documents"), ","),
    Column("tokens", attrgetter("num_tokens"), ","),
    Column("nats/token", attrgetter("nats_per_token"), ".4f"),
    Column("bits/byte", attrgetter("bits_per_byte"), ".4f"),
    Column("95 %", lambda group: interval(group.bits_per_byte_ci95, ".4f"), ""),
)
OF_LABELS = (
    *MEASURES[:1],
    Column("nats/label", attrgetter("nats_per_token"), ".4f"),
    Column("95 %", lambda group: interval(group.nats_per_token_ci95, ".4f"), ""),
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
    from thetahat.core.errors import ConfigError, NonFiniteError
    from thetahat.run.folder.absent import refuse_absent

    names, pairs = split_words(words)
    if not names:
        raise ConfigError("no MODEL came", cure="thetahat score runs/NAME my.txt")
    model, *data = names
    refuse_absent(model)
    from thetahat.cli.progress import token_progress
    from thetahat.run.signals import interrupting
    from thetahat.verbs.load import load
    from thetahat.verbs.score import score as score_text

    what, cure = KEPT if out else NOT_KEPT
    with interrupting(what, cure), token_progress(shown=is_first_rank() and not quiet) as shows:
        loaded = load(model, tuple(pairs))
        scored = score_text(loaded, data, out=out, tokens=tokens, shows=shows)
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
        say(f"Next: {following_score(model, out, loaded.card)}")


def _show(scored: "Score") -> None:
    plain = scored.to_dict()
    groups, labels = plain.pop("by"), scored.summary.classification
    show_values(
        {name: value for name, value in plain.items() if name not in ("classification", "evaluated_by_the_run")}
    )
    if labels:
        show_labels(labels)
    for name, members in groups.items():
        _show_groups(name, members, OF_LABELS if labels else MEASURES)
    if not scored.summary.lossless:
        emit_words("\nnote: the tokenizer loses some of the text, so that bits per byte are a lower bound")
    if scored.summary.caution:
        emit_words(f"\nnote: {scored.summary.caution}")


def show_labels(found: "Classification") -> None:
    """The labels that are told apart worst, and what they are taken for."""
    columns = [
        Column("label", attrgetter("label")),
        Column("texts", attrgetter("support"), ","),
        Column("precision", attrgetter("precision"), ".4f"),
        Column("recall", attrgetter("recall"), ".4f"),
        Column("F1", attrgetter("f1"), ".4f"),
        Column("nats/label", lambda one: -one.log_likelihood / one.support if one.support else None, ".4f"),
    ]
    worst = sorted(found.labels, key=lambda one: (one.f1, -one.support, one.label))
    emit(f"\n{'lowest F1 first' if len(worst) > SHOWN else 'by label'}:")
    show_table(worst[:SHOWN], columns, num_more=len(worst) - SHOWN)
    if confused := found.confused:
        columns = [Column("label", attrgetter("label")), Column("taken for", attrgetter("predicted"))]
        emit("")
        show_table(
            confused[:SHOWN], [*columns, Column("texts", attrgetter("count"), ",")], num_more=len(confused) - SHOWN
        )


def _show_groups(name: str, groups: "list[GroupLikelihood]", measures: "Sequence[Column]") -> None:
    """One table of the groups that have an interval: the largest where there are many; the rest is summed up."""
    from thetahat.core.plain import counted
    from thetahat.statistics.interval import MIN_DOCUMENTS

    told = [group for group in groups if group.num_documents >= MIN_DOCUMENTS]
    smallest = sorted(told, key=lambda group: -group.num_tokens)[SHOWN:]
    emit("")
    if told:
        names = Column(f"by {name}", lambda group: group.name or "(none)")
        shown = [group for group in told if group not in smallest]
        show_table(shown, [names, *measures], num_more=len(smallest))
    if few := [group for group in groups if group not in told]:
        start = "... and" if told else f"by {name}:"
        count = counted(len(few), "group")
        emit_words(f"{start} {count} of fewer than {MIN_DOCUMENTS} documents{_sum_of(few)}: --json has all")


def _sum_of(groups: "Sequence[GroupLikelihood]") -> str:
    """What groups are together; a document may be in several of them."""
    num_tokens, num_bytes = (sum(getattr(one, name) for one in groups) for name in ("num_tokens", "num_bytes"))
    nats = -math.fsum(group.log_likelihood for group in groups)
    if any(group.bits_per_byte is None for group in groups) or not num_bytes:
        return f", together {num_tokens:,} targets, {nats / num_tokens:.4f} nats each"
    return f", together {num_tokens:,} tokens, {nats / math.log(2) / num_bytes:.4f} bits/byte"


def _conclude(model: str, out: Path | None, scored: "Score") -> None:
    from thetahat.core.plain import counted

    noise, part = scored.noise, scored.evaluated
    if part:
        of = counted(scored.summary.num_documents, "document")
        say(f"the log of the run is of {part.num_documents:,} of these {of} (evaluation.max_documents), on which this "
            f"model has {part.value:.4f} {part.unit}; what is above is of all of them")  # fmt: skip
    if noise.num_sequences:
        count = counted(noise.num_sequences, "sequence")
        apart = f"at most {noise.nats_per_token:.1e} nats a {'label' if scored.summary.classification else 'token'}"
        apart = apart if noise.nats_per_token else "nothing"
        say(f"rounding: {count} scored once more, each outside of its batch, which changed {apart}")
    if scored.tokens_cut or scored.prompt_cut:
        say(
            f"cut by data.over_long: {counted(scored.tokens_cut, 'target')} not scored, "
            f"{counted(scored.prompt_cut, 'token')} of prompts not read"
        )
    if out:
        say(f"ledger in {out}")


def following_score(model: str, out: Path | None, card: "Card") -> str:
    """What to type after a score."""
    if out:
        return f"thetahat compare {out} OTHER.parquet"
    if card.chat:
        return f"thetahat chat {model}"
    if card.labels:
        return f"thetahat classify {model} TEXT"
    return f"thetahat score {model} DATA --out ledger.parquet    to compare it with another model"
