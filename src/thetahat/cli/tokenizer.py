"""`thetahat tokenizer train`."""

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from thetahat.cli.words import Json, Quiet, emit, emit_json, listen_to_library, say, split_words

if TYPE_CHECKING:
    from thetahat.data.config import ReadOptions

app = typer.Typer(help="Tokenizers of one's own", no_args_is_help=True, rich_markup_mode=None)


@app.command()
def train(
    words: list[str] = typer.Argument(metavar="DATA... [data.columns.NAME=COLUMN]..."),
    vocab_size: int = typer.Option(..., help="How many pieces, the 256 bytes and <|endoftext|> included."),
    out: Path = typer.Option(Path("tokenizer.json"), help="Where to write it."),
    skip_bad: bool = typer.Option(False, "--skip-bad", help="Leave out records that cannot be read, and name them."),
    quiet: bool = Quiet,
    json: bool = Json,
) -> None:
    """Train byte-level BPE on text."""
    listen_to_library(quiet=quiet)
    from thetahat.cli.progress import progress
    from thetahat.verbs.tokenizer import train as train_on

    data, pairs = split_words(words)
    with progress("pieces", shown=not quiet, stays=False):
        tokenizer = train_on(data, vocab_size, out, "skip" if skip_bad else "error", _options(data, pairs))
    if json:
        emit_json({"tokenizer": str(out), "vocab_size": tokenizer.vocab_size, "sha256": tokenizer.digest})
    else:
        emit(str(out))
    if not quiet:
        say(f"{tokenizer.vocab_size:,} pieces\nNext: thetahat train data.train={data[0]} data.tokenizer={out}")


def _options(data: list[str], pairs: list[str]) -> "ReadOptions":
    from thetahat.core.errors import ConfigError
    from thetahat.data.config import OF_READING, data_of, is_of_reading

    if not data:
        raise ConfigError("no DATA came", cure="thetahat tokenizer train my.txt --vocab-size 4096")
    if strange := [pair for pair in pairs if not is_of_reading(pair)]:
        allowed = ", ".join(f"data.{name}" for name in OF_READING)
        raise ConfigError(f"{strange[0]} changes nothing here", allowed=allowed)
    return data_of(pairs).read_options
