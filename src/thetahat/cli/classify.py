"""`thetahat classify`."""

import glob
import os
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

import typer

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

if TYPE_CHECKING:
    from thetahat.verbs.classify import Labelled

LINE = 60  # characters of a text


def classify(
    words: list[str] = typer.Argument(metavar="MODEL TEXT|FILE... [KEY=VALUE]..."),
    top: int = typer.Option(5, min=1, help="How many of the likeliest labels of a typed text are shown."),
    out: Path | None = typer.Option(
        None, help="Write a line or row for each text: .jsonl, .parquet or .csv.", show_default=False
    ),
    quiet: bool = Quiet,
    json: bool = Json,
) -> None:
    """Say the label of a text, or of every record of a file, and how probable it is.

    FILE is read as for training: records with a text, alone or with its label; a line of a .txt is a text. - reads
    standard input. Where records have labels, it says how often the likeliest one is right.
    """
    listen_to_library(quiet=quiet)
    from thetahat.core.errors import ConfigError
    from thetahat.run.folder.absent import refuse_absent

    names, pairs = split_words(words)
    if len(names) < 2:
        missing = "no TEXT or FILE came" if names else "no MODEL came"
        raise ConfigError(missing, cure=f"thetahat classify {names[0] if names else 'runs/NAME'} TEXT")
    model, *given = names
    refuse_absent(model)
    is_data = [_is_data(word, model) for word in given]
    if any(is_data) and not all(is_data):
        text = given[is_data.index(False)]
        raise ConfigError(f"files and a text came: {in_line(text[:LINE])}", allowed="texts, or files that exist")
    from thetahat.cli.progress import token_progress
    from thetahat.run.signals import interrupting
    from thetahat.verbs.classify import classify as classify_texts
    from thetahat.verbs.load import load

    texts, data = ([], given) if all(is_data) else (given, [])
    with (
        interrupting("interrupted", "the same command again"),
        token_progress(shown=is_first_rank() and not quiet and bool(data), unit="texts") as shows,
    ):
        found = classify_texts(load(model, tuple(pairs)), texts, data, top=top, out=out, shows=shows)
    if not is_first_rank():
        return
    if json:
        emit_json(found)
    elif texts:
        _show_typed(found.texts)
    else:
        if not out:
            _show_lines(found.texts)
        if found.classification:
            from thetahat.cli.score import show_labels

            share, low, high = found.classification.accuracy
            told = f"accuracy {share:.4f} (95 % {low:.4f} to {high:.4f}), macro F1 {found.classification.macro_f1:.4f}"
            emit_words(f"{'' if out else chr(10)}{told}, {found.classification.num_right:,} of "
                 f"{found.classification.num_texts:,} texts right")  # fmt: skip
            show_labels(found.classification)
    if not quiet:
        _conclude(model, out, has_labels=found.classification is not None, data=data)


def _is_data(word: str, model: str) -> bool:
    """Whether a word names data: what exists, or is a URL; anything else is a text.

    What looks like the name of a file, and is none, is an error: it was hardly meant as a text.
    """
    if word == "-" or "://" in word or os.path.exists(word) or glob.glob(word):
        return True
    if _looks_like_a_file(word):
        from thetahat.core.errors import DataError
        from thetahat.data.read.named.near import did_you_mean

        as_text = f"printf %s {quote(word)} | thetahat classify {quote(model)} -, if it is a text"
        near = did_you_mean(word)
        raise DataError(f"no such file or folder: {word}", cure=f"{near}; or {as_text}" if near else as_text)
    return False


def _looks_like_a_file(word: str) -> bool:
    """Whether a word without blanks has the ending of data or parts of a path."""
    from thetahat.data.read.named.kind import KINDS, kind_of_file

    is_path = os.sep in word and word.isascii()  # in other alphabets a sentence may have no blanks
    return len(word.split()) == 1 and (is_path or kind_of_file(Path(word)) in {*KINDS, ".json", ".md", ".log"})


def _show_typed(found: "list[Labelled]") -> None:
    for number, one in enumerate(found):
        if len(found) > 1:
            emit(f"{chr(10) if number else ''}{in_line(one.text[:LINE])}")
        from thetahat.cli.table import Column, show_table

        columns = [
            Column("label", lambda row: row["label"]),
            Column("probability", lambda row: row["probability"], ".4f"),
            Column("nats", lambda row: row["log_prob"], ".4f"),
        ]
        show_table(one.to_dict()["top"], columns)


def _show_lines(found: "list[Labelled]") -> None:
    """A line for each text, with a tabulator between its fields: probability, label and text."""
    for one in found:
        emit(f"{one.probability:.4f}\t{in_line(one.predicted)}\t{in_line(one.text)}")


def _conclude(model: str, out: Path | None, *, has_labels: bool, data: list[str]) -> None:
    if out:
        say(f"labels in {out}")
    if has_labels:
        say(f"Next: thetahat score {model} {data[0]} --out ledger.parquet    to compare it with another classifier")
    elif not data:
        say(f"Next: thetahat classify {model} FILE.jsonl --out labels.jsonl    for many texts at once")
