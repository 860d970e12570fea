"""`thetahat replay`."""

import sys
from dataclasses import dataclass
from operator import attrgetter, itemgetter
from shlex import quote
from typing import TYPE_CHECKING, Any

import typer

from thetahat.cli.effects import show_sequences
from thetahat.cli.options import options_of, typed_as
from thetahat.cli.table import Column, show_table
from thetahat.cli.words import (
    PROGRAM,
    Json,
    Quiet,
    emit,
    emit_json,
    emit_words,
    escape,
    in_line,
    is_first_rank,
    listen_to_library,
    say,
    split_words,
)

if TYPE_CHECKING:
    from thetahat.verbs.replay import Replay

PARTS = 8  # of the model that are shown; --json has all


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked of the step."""

    step: int | None = typer.Option(
        None, min=1, help="The step; default: the one that was not finite, or the last.", show_default=False
    )
    without: list[str] = typer.Option(
        [], metavar="ID", help="And without this record; may be repeated.", show_default=False
    )
    learning_rate_factor: float = typer.Option(1.0, metavar="F", help="And with all learning rates times F.")
    to_checkpoint: bool = typer.Option(
        False, "--to-checkpoint", help="Go on to the next checkpoint, and compare every tensor."
    )
    rows: int = typer.Option(4, min=1, help="How many sequences and tokens to show.")


@options_of(Asked)
def replay(
    words: list[str] = typer.Argument(metavar="RUN [KEY=VALUE]..."),
    quiet: bool = Quiet,
    json: bool = Json,
    **typed: Any,
) -> None:
    """Make a step of a run again, bit for bit, and say what it did: sequences, tokens, parts of the model, dtypes.

    With KEY=VALUE, --without or --learning-rate-factor it is also made so, from the same state. Nothing of the run is
    changed. Exit code 6: the bits are not those that the run wrote down.
    """
    from thetahat.core.errors import ConfigError, VerificationError
    from thetahat.run.folder.absent import refuse_absent

    asked, (names, pairs) = typed_as(Asked, typed), split_words(words)
    if len(names) != 1:
        raise ConfigError(f"{len(names)} runs came", allowed="one", cure="thetahat replay runs/NAME --step N")
    listen_to_library(quiet=quiet)
    refuse_absent(names[0])
    from thetahat.cli.progress import progress
    from thetahat.verbs.replay import replay as make

    with progress("step", shown=not quiet and is_first_rank(), stays=False):
        found = make(
            names[0],
            asked.step,
            without=asked.without,
            learning_rate_factor=asked.learning_rate_factor,
            changes=pairs,
            to_checkpoint=asked.to_checkpoint,
        )
    if not is_first_rank():
        return
    if json:
        emit_json(found)
    else:
        _show(found, asked.rows)
    if found.is_reproduced is False:
        error = VerificationError(f"step {found.again.report.step} of {names[0]} is {found.verdict()}")
        if not json:
            raise error
        say(f"{PROGRAM}{escape(str(error))}")
        sys.exit(error.exit_code)
    if not quiet:
        say(f"Next: {_next(found, quote(names[0]))}")


def _show(found: "Replay", rows: int) -> None:
    told = found.to_dict()
    made = f"from {told['from']}" + (f", {told['ranks']} ranks" if told["ranks"] > 1 else "")
    emit_words(f"step {told['step']:,} of {told['run']}, {made}")
    for note in told["notes"]:
        emit_words(escape(note))
    emit_words(escape(found.verdict()))
    if found.is_reproduced is not False:
        for line in told["elsewhere"]:
            emit_words(f"made elsewhere: {line}")
    skipped = "; a policy left the update out" if told["skipped"] else ""
    emit_words(
        f"{told['log_likelihood_per_token']:.4f} nats per token over {told['num_targets']:,} targets, "
        f"gradient norm {told['gradient_norm']:.4g}{skipped}"
    )
    if told["blame"]:
        _blame(told["blame"], rows)
    if told["sequences"]:
        emit(f"\nsequences by their share of the gradient (all sum to {told['sum_of_shares']:.4f})")
        show_sequences(told["sequences"], rows)
        _tokens(told["worst_tokens"][:rows])
    _parts(found)
    _outcomes(found)


def _blame(told: dict[str, Any], rows: int) -> None:
    emit_words(f"not finite. {escape(told['what'])}")
    columns = [
        Column("of", itemgetter("id")),
        Column("module", itemgetter("module")),
        Column("pass", itemgetter("way")),
        Column("position", itemgetter("position"), ","),
        Column("text", itemgetter("text")),
    ]
    if told["sequences"]:
        emit("")
        show_table(told["sequences"][:rows], columns, num_more=len(told["sequences"]) - rows)


def _tokens(worst: list[dict[str, Any]]) -> None:
    emit("\nthe least likely tokens, each between what stands before and behind it")
    columns = [
        Column("nats", itemgetter("log_prob"), ".2f"),
        Column("before", lambda one: in_line(one["before"][-24:])),
        Column("token", lambda one: in_line(one["token"])),
        Column("behind", lambda one: in_line(one["behind"])),
        Column("of", itemgetter("id")),
    ]
    show_table(worst, columns)


def _parts(found: "Replay") -> None:
    whole = sum(one.gradient**2 for one in found.parts)
    columns = [
        Column("part", attrgetter("name")),
        Column("gradient norm", attrgetter("gradient"), ".3g"),
        Column("share", lambda one: one.gradient**2 / whole if whole > 0 else None, ".1%"),
        Column("update/size", attrgetter("ratio"), ".2e"),
    ]
    emit("")
    ordered = sorted(found.parts, key=lambda one: -one.gradient)
    show_table(ordered[:PARTS], columns, num_more=len(ordered) - PARTS)


def _outcomes(found: "Replay") -> None:
    columns = [
        Column("the step", attrgetter("name")),
        Column("nats/token", attrgetter("log_likelihood_per_token"), ".4f"),
        Column("gradient norm", attrgetter("gradient_norm"), ".4g"),
        Column("update/size", attrgetter("update"), ".2e"),
        Column("after", attrgetter("after"), ".4f"),
    ]
    emit("")
    show_table(found.outcomes, columns)


def _next(found: "Replay", run: str) -> str:
    """The suspected sequence left out, and behind that what it would come to in a whole run."""
    step, config = found.again.report.step, found.again.state.config
    if found.blame is not None and found.blame.culprits:
        suspect = found.blame.culprits[0].id
    elif len(found.outcomes) < 3 and len({one.part.id for one in found.effects}) > 1:
        suspect = max(found.effects, key=lambda one: one.share).part.id
    else:
        rate = getattr(config.optimization.matrices, "learning_rate", 0.0)
        changed = f"optimization.matrices.learning_rate={rate / 2:g}"
        return f"thetahat train --branch {run} {changed}    to go on so from its newest checkpoint"
    return f"thetahat replay {run} --step {step} --without {quote(in_line(suspect))}    to make it without that record"
