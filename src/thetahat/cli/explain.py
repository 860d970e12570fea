"""`thetahat explain`."""

import sys
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import typer

from thetahat.cli.table import Column, show_table
from thetahat.cli.words import (
    Json,
    Quiet,
    Words,
    emit,
    emit_json,
    emit_words,
    escape,
    find_config,
    in_line,
    listen_to_library,
    say,
)
from thetahat.core.plain import counted

if TYPE_CHECKING:
    from thetahat.verbs.explain import Account, Explained, Token

SHOWN = 24  # groups of the table; --json has them all
COLOURS = {"asked": "30;42", "end": "30;46", "masked": "30;45", "cut": "9;31", "prompt": "2", "context": "2"}
LEGEND = {"asked": "target", "end": "target that ends", "masked": "masked target", "cut": "cut", "prompt": "read only"}


def explain(
    words: list[str] | None = Words,
    records: int = typer.Option(3, min=0, help="How many records to show token by token."),
    quiet: bool = Quiet,
    json: bool = Json,
) -> None:
    """Show which tokens a run would learn from, with what weight and why, and what it would leave out.

    On a terminal tokens are coloured; elsewhere targets stand in [brackets] and cut tokens in -dashes-.
    """
    listen_to_library(quiet=quiet, facts=False)
    config = find_config(words)
    from thetahat.cli.progress import progress
    from thetahat.verbs.explain import explain as explain_data

    with progress("records", shown=not quiet, stays=False):
        explained = explain_data(config, records)
    if json:
        emit_json(explained)
        return
    for record in explained.records:
        _show(record)
    _account(explained.account)
    if not quiet:
        say("Next: thetahat verify    or thetahat train, with the same arguments")


def _show(record: "Explained") -> None:
    emit(f"== {in_line(record.id)}")
    emit("".join(map(_marked, _joined(record.tokens))))
    for note in record.notes:
        emit_words(f"note: {escape(note)}")
    weights = sorted({round(token.weight, 6) for token in record.tokens if token.weight})
    emit(f"   loss weights of the targets: {', '.join(f'{weight:g}' for weight in weights[:6]) or 'none'}\n")


def _joined(tokens: list["Token"]) -> list[tuple[str, str]]:
    """Runs of one kind, as (why, text)."""
    runs: list[tuple[str, str]] = []
    for token in tokens:
        if runs and runs[-1][0] == token.why:
            runs[-1] = (token.why, runs[-1][1] + token.text)
        else:
            runs.append((token.why, token.text))
    return runs


def _marked(run: tuple[str, str]) -> str:
    why, text = run
    if sys.stdout.isatty():
        return f"\x1b[{COLOURS[why]}m{escape(text)}\x1b[0m"
    around = {"prompt": ("", ""), "context": ("", ""), "cut": ("-", "-")}.get(why, ("[", "]"))
    return f"{around[0]}{escape(text)}{around[1]}"


def _account(whole: "Account") -> None:
    if sys.stdout.isatty():
        emit("   ".join(f"\x1b[{COLOURS[why]}m{text}\x1b[0m" for why, text in LEGEND.items()) + "\n")
    for line in whole.reading:
        emit(escape(line))
    targets = counted(whole.tokens_asked, "target")
    emit_words(f"{counted(whole.records, 'record')}: {targets}, {whole.ends_asked:,} of them ends")
    if whole.turn_ends:
        emit_words("turns end with " + ", ".join(f"{name} ({count:,})" for name, count in whole.turn_ends.items()))
    emit_words(
        f"left out: {counted(whole.tokens_cut, 'target')}, {counted(whole.prompt_tokens_cut, 'token')} of prompts"
    )
    for line in whole.fit:
        emit_words(line)
    if whole.records_without_weight:
        emit_words(f"not read: {counted(whole.records_without_weight, 'record')} of weight 0")
    if whole.new_tokens:
        emit_words(whole.new_tokens)
    if lost := str(whole.losses):
        emit_words(lost)
    begins = counted(whole.begins_with_end_of_text, "sequence begins", "sequences begin")
    emit(f"{begins} with {escape(whole.begin)}\n")
    _show_groups(whole.groups)
    emit("")
    columns = [
        Column("objective.normalization", itemgetter("name")),
        Column("N_eff", itemgetter("effective_number"), ",.1f"),
        Column("share of the heaviest 1 %", itemgetter("top_share"), ".1%"),
    ]
    show_table([{"name": name, **row} for name, row in whole.concentration.items()], columns)
    for note, count in whole.notes.items():
        emit_words(f"\nin {counted(count, 'record')}: {escape(note)}")


def _show_groups(groups: list[dict[str, Any]]) -> None:
    largest = sorted(groups, key=lambda group: -group["asked"])[:SHOWN]
    texts = [Column(name, itemgetter(name)) for name in ("source", "role", "part")]
    numbers = {"records": "records", "read": "read", "asked": "targets", "cut": "cut"}
    counts = [Column(title, itemgetter(name), ",") for name, title in numbers.items()]
    show_table(largest, [*texts, *counts], num_more=len(groups) - len(largest))
