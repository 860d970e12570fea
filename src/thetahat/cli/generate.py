"""`thetahat generate`."""

import os
import sys

import typer

from thetahat.cli.words import Json, Quiet, emit, emit_json, escape, listen_to_library, say, split_words


def generate(
    words: list[str] = typer.Argument(metavar="MODEL [KEY=VALUE]..."),
    prompt: str = typer.Option("", help="The text to continue; - reads standard input."),
    max_tokens: int = typer.Option(256, help="Stop after so many tokens."),
    temperature: float = typer.Option(1.0, help="0: always the most likely token."),
    top_k: int = typer.Option(0, help="Choose among so many of the most likely; 0: all."),
    top_p: float = typer.Option(1.0, help="Choose among the fewest that hold so much probability."),
    seed: int = typer.Option(0, help="Another seed, another text; the same seed, the same."),
    beams: int = typer.Option(0, help="Search for the likeliest text with so many beams instead of drawing one."),
    length_exponent: float = typer.Option(1.0, help="Of the length that beams are divided by; 0: the likeliest wins."),
    quiet: bool = Quiet,
    json: bool = Json,
) -> None:
    """Continue a text, answer a prompt (encoder-decoders), or fill each <|mask|> in it (encoders)."""
    listen_to_library(quiet=quiet)
    from thetahat.core.config import from_plain, override
    from thetahat.core.errors import ConfigError
    from thetahat.evaluation.beam import Beam
    from thetahat.evaluation.generate import Sampling
    from thetahat.model.decoder import Decoder
    from thetahat.verbs.generate import answer, generate as continue_text
    from thetahat.verbs.load import load

    names, pairs = split_words(words)
    if len(names) != 1:
        raise ConfigError(f"{len(names)} models came", allowed="one", cure="thetahat generate runs/NAME --prompt TEXT")
    chosen = {"max_tokens": max_tokens, "temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": seed}
    named = [pair for pair in pairs if pair.partition("=")[0] in chosen]  # KEY=VALUE for --KEY VALUE
    sampling = override(from_plain(chosen, Sampling), named)
    pairs = [pair for pair in pairs if pair not in named]
    text = _unicode(sys.stdin.buffer.read() if prompt == "-" else os.fsencode(prompt))
    loaded = load(names[0], tuple(pairs))
    pieces: list[str] = []
    continues = isinstance(loaded.model, Decoder)  # others do not begin with what they were given
    if not json and continues:
        emit(_shown(text), end="")
    if beams:
        widths = {"num_beams": beams, "length_exponent": length_exponent, "max_tokens": sampling.max_tokens}
        written = iter(answer(loaded, [text], from_plain(widths, Beam)))
    else:
        written = continue_text(loaded, text, sampling)
    for piece in written:
        pieces.append(piece)
        if not json:
            emit(_shown(piece), end="")
    if json:
        emit_json({"prompt": text, "continuation": "".join(pieces)})
        return
    emit("")
    if not quiet:
        say(f"\nNext: thetahat score {names[0]} YOUR.txt")


def _shown(text: str) -> str:
    """Raw to a file or a pipe; on a terminal without its control characters."""
    return escape(text) if sys.stdout.isatty() else text


def _unicode(given: bytes) -> str:
    from thetahat.core.errors import DataError

    try:
        return given.decode()
    except UnicodeDecodeError as error:
        raise DataError(f"the prompt is not UTF-8: byte {error.start} is {given[error.start]:#04x}") from error
