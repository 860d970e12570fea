"""`thetahat score`."""

from pathlib import Path

import typer

from thetahat.cli.words import Json, Quiet, emit, emit_json, is_first_rank, listen_to_library, say, split_words


def score(
    words: list[str] = typer.Argument(metavar="MODEL DATA... [KEY=VALUE]..."),
    out: Path | None = typer.Option(
        None, help="Write the ledger, a row a document or turn, as Parquet.", show_default=False
    ),
    quiet: bool = Quiet,
    json: bool = Json,
) -> None:
    """Say how likely a text is under a model, exactly and with an interval.

    MODEL is a run folder, RUN@best, RUN@STEP or a checkpoint folder. Without DATA: what the run held out.
    """
    listen_to_library(quiet=quiet)
    from thetahat.core.errors import ConfigError, NonFiniteError
    from thetahat.verbs.load import load
    from thetahat.verbs.score import score as score_text

    names, pairs = split_words(words)
    if not names:
        raise ConfigError("no MODEL came", cure="thetahat score runs/NAME my.txt")
    model, *data = names
    scored = score_text(load(model, tuple(pairs)), data, out=out)
    if not is_first_rank():
        return
    how = {"interval_unit": scored.summary.interval_unit, "policy": scored.policy}
    numbers = scored.summary.to_dict() | how
    if json:
        emit_json(numbers)
    else:
        for name, value in numbers.items():
            emit(f"{name:<20} {value}")
    if isinstance(numbers["log_likelihood"], str):
        sick = [row.id for row in scored.rows if not row.log_prob > float("-inf")]
        raise NonFiniteError(f"the likelihood is {numbers['log_likelihood']}; documents: {', '.join(sick[:8])}")
    if not quiet:
        say(f"ledger in {out}") if out else None
        say(f"Next: thetahat generate {model}")
