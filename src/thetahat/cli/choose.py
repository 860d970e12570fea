"""`thetahat choose`."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from thetahat.cli.options import options_of, typed_as
from thetahat.cli.table import Column, interval, show_table, show_values
from thetahat.cli.words import (
    Json,
    Quiet,
    emit,
    emit_json,
    emit_words,
    in_line,
    is_first_rank,
    listen_to_library,
    say,
    split_words,
)
from thetahat.core.errors import ConfigError
from thetahat.core.plain import counted, unescaped

if TYPE_CHECKING:
    from thetahat.scoring.choice import ScoredQuestion

DELIMITER = " "
COUNTS = (
    "tokens_straddling",
    "context_tokens_counted",
    "context_tokens_cut",
    "contexts_cut",
    "choice_tokens_cut",
    "choices_cut",
)
GOLD = ("nats_per_token", "nats_per_token_ci95", "bits_per_byte", "bits_per_byte_ci95")


@dataclass(frozen=True, slots=True)
class Joined:
    """How a context and a choice become one text, as it was typed."""

    delimiter: str = typer.Option(
        DELIMITER, help=r"Between a context and a choice where neither brings a blank; \n, \t, \r, \\ are read."
    )
    over_long: str = typer.Option("error", help="error, or truncate-left: leave out the beginning.")
    chat: bool = typer.Option(False, "--chat", help="A context is what a user says, in the template of training.")

    def checked(self) -> dict[str, Any]:
        """The arguments of `thetahat.choose`."""
        if self.over_long not in {"error", "truncate-left"}:
            raise ConfigError(f"--over-long {self.over_long}", allowed="error, truncate-left")
        if self.chat and self.delimiter != DELIMITER:
            raise ConfigError("--delimiter came with --chat, whose template says what stands there", cure="one of them")
        return asdict(self) | {"delimiter": unescaped(self.delimiter)}


@options_of(Joined)
def choose(
    words: list[str] = typer.Argument(metavar="MODEL DATA... [KEY=VALUE]..."),
    out: Path | None = typer.Option(None, help="Write the ledger, a row a choice, as Parquet.", show_default=False),
    quiet: bool = Quiet,
    json: bool = Json,
    **typed: Any,
) -> None:
    """Say how often the right one of several choices is the likeliest: multiple choice, minimal pairs, clozes.

    DATA are .jsonl files of {"good", "bad"}, {"query", "choices", "gold"}, {"context_options", "continuation",
    "gold"} or {"context", "continuation"}; {"messages"} may stand for a query or context, in the template of training.
    Other names of these: data.columns.query=question data.columns.choices=options data.columns.gold=answer.
    """
    listen_to_library(quiet=quiet)
    from thetahat.run.folder.absent import refuse_absent

    names, pairs = split_words(words)
    if len(names) < 2:
        raise ConfigError("no DATA came" if names else "no MODEL came", cure="thetahat choose runs/NAME pairs.jsonl")
    model, *data = names
    how = typed_as(Joined, typed).checked()
    refuse_absent(model)
    from thetahat.verbs.choose import choose as choose_likeliest
    from thetahat.verbs.load import load

    found = choose_likeliest(load(model, tuple(pairs)), data, out=out, **how)
    if not is_first_rank():
        return
    if json:
        emit_json(found)
    else:
        _show(found.to_dict())
        if shared := _shared(found.questions):
            emit_words(f"note: {shared}")
        if found.gold.caution:
            emit_words(f"note: of the right choices {found.gold.caution}")
    if quiet:
        return
    tied = {rule: accuracy.tied for rule, accuracy in found.overall.items() if accuracy.tied}
    for rule, ids in tied.items():
        more = ", ..." if len(ids) > 8 else ""
        ties = counted(len(ids), "tie with the right choice counts", "ties with the right choice count")
        say(f"by {rule}, {ties} as wrong: {in_line(', '.join(ids[:8]))}{more}")
    say(f"ledger in {out}") if out else None
    say(f"Next: thetahat score {model} YOUR.txt")


def _shared(scored: "Sequence[ScoredQuestion]") -> str:
    """What is to be said where questions share an id."""
    clusters = len({one.document for one in scored})
    if clusters == len(scored):
        return ""
    return f"{len(scored):,} questions have {clusters:,} ids: those of one id are one cluster in the intervals"


def _show(numbers: dict[str, Any]) -> None:
    tables = dict(numbers["sources"])
    if len(tables) > 1:
        tables |= {"all questions alike": numbers["overall"], "all sources alike": numbers["macro"]}
    columns = [
        Column("source", itemgetter("source")),
        Column("rule", itemgetter("rule")),
        Column("accuracy", itemgetter("accuracy"), ".4f"),
        Column("95 %", lambda row: interval(row["ci95"], ".4f"), ""),
        Column("questions", lambda row: row.get("num_questions", ""), ","),
        Column("ties", lambda row: row.get("num_tied", ""), ","),
    ]
    show_table(
        [{"source": source, "rule": rule, **of} for source, found in tables.items() for rule, of in found.items()],
        columns,
    )
    emit("")
    gold = {f"gold {name}": numbers["gold"][name] for name in GOLD}
    show_values({name: numbers[name] for name in (*COUNTS, "policy")} | gold)
