"""`thetahat choose`."""

from pathlib import Path
from typing import Any

import typer

from thetahat.cli.words import Json, Quiet, emit, emit_json, in_line, is_first_rank, listen_to_library, say, split_words

COUNTS = (
    "tokens_straddling",
    "context_tokens_counted",
    "context_tokens_cut",
    "contexts_cut",
    "choice_tokens_cut",
    "choices_cut",
)


def choose(
    words: list[str] = typer.Argument(metavar="MODEL DATA... [KEY=VALUE]..."),
    out: Path | None = typer.Option(None, help="Write the ledger, a row a choice, as Parquet.", show_default=False),
    delimiter: str = typer.Option(
        " ", help=r"Between a context and a choice where neither brings a blank; \n, \t, \r, \\ are read."
    ),
    over_long: str = typer.Option("error", help="error, or truncate-left: leave out the beginning."),
    quiet: bool = Quiet,
    json: bool = Json,
) -> None:
    """Say how often the right one of several choices is the likeliest: multiple choice, minimal pairs, clozes.

    DATA are .jsonl files of {"good", "bad"}, {"query", "choices", "gold"}, {"context_options", "continuation",
    "gold"} or {"context", "continuation"}; {"messages"} may stand for a query or context, in the template of training.
    """
    listen_to_library(quiet=quiet)
    from thetahat.core.errors import ConfigError
    from thetahat.core.plain import unescaped
    from thetahat.verbs.choose import choose as choose_likeliest
    from thetahat.verbs.load import load

    names, pairs = split_words(words)
    if len(names) < 2:
        raise ConfigError("no DATA came" if names else "no MODEL came", cure="thetahat choose runs/NAME pairs.jsonl")
    if over_long != "error" and over_long != "truncate-left":
        raise ConfigError(f"--over-long {over_long}", allowed="error, truncate-left")
    model, *data = names
    found = choose_likeliest(
        load(model, tuple(pairs)), data, out=out, delimiter=unescaped(delimiter), over_long=over_long
    )
    if not is_first_rank():
        return
    numbers = found.to_dict()
    if json:
        emit_json(numbers)
    else:
        _show(numbers)
        if found.gold.caution:
            emit(f"note: of the right choices {found.gold.caution}")
    if quiet:
        return
    tied = {rule: accuracy.tied for rule, accuracy in found.overall.items() if accuracy.tied}
    for rule, ids in tied.items():
        more = ", ..." if len(ids) > 8 else ""
        say(f"by {rule}, {len(ids)} ties with the right choice count as wrong: {in_line(', '.join(ids[:8]))}{more}")
    say(f"ledger in {out}") if out else None
    say(f"Next: thetahat score {model} YOUR.txt")


def _show(numbers: dict[str, Any]) -> None:
    emit(f"{'source':<44} {'rule':<14} accuracy  95% interval    questions  ties")
    for source, found in numbers["sources"].items():
        _show_rules(in_line(source), found)
    if len(numbers["sources"]) > 1:
        _show_rules("all questions alike", numbers["overall"])
        _show_rules("all sources alike", numbers["macro"])
    for name in (*COUNTS, "policy"):
        emit(f"{name:<24} {numbers[name]}")
    for name in ("nats_per_token", "bits_per_byte"):
        low_high = numbers["gold"][f"{name}_ci95"]
        within = f"  95 % {low_high[0]} to {low_high[1]}" if low_high else ""
        emit(f"{'gold ' + name:<24} {numbers['gold'][name]}{within}")


def _show_rules(source: str, found: dict[str, Any]) -> None:
    for rule, of in found.items():
        low, high = of["ci95"]
        counts = f"{of['num_questions']:>12,} {of['num_tied']:>5,}" if "num_questions" in of else ""
        emit(f"{source:<44} {rule:<14} {of['accuracy']:>8.4f}  {low:.4f}-{high:.4f} {counts}".rstrip())
