"""`thetahat tokenizer train`."""

from pathlib import Path

import typer

from thetahat.cli.words import Json, Quiet, emit, emit_json, listen_to_library, say

app = typer.Typer(help="Tokenizers of one's own.", no_args_is_help=True, rich_markup_mode=None)


@app.command()
def train(
    data: list[str] = typer.Argument(metavar="DATA..."),
    vocab_size: int = typer.Option(..., help="How many pieces, the 256 bytes and <|endoftext|> included."),
    out: Path = typer.Option(Path("tokenizer.json"), help="Where to write it."),
    skip_bad: bool = typer.Option(False, "--skip-bad", help="Leave out records that cannot be read, and name them."),
    quiet: bool = Quiet,
    json: bool = Json,
) -> None:
    """Train byte-level BPE on text."""
    listen_to_library(quiet=quiet)
    from thetahat.verbs.tokenizer import train as train_on

    tokenizer = train_on(data, vocab_size, out, "skip" if skip_bad else "error")
    if json:
        emit_json({"tokenizer": str(out), "vocab_size": tokenizer.vocab_size, "sha256": tokenizer.digest})
    else:
        emit(str(out))
    if not quiet:
        say(f"{tokenizer.vocab_size:,} pieces\nNext: thetahat train data.train={data[0]} data.tokenizer={out}")
