"""How a text is written: the options that `generate` and `chat` share."""

import os
from typing import TYPE_CHECKING, Any

import typer

from thetahat.cli.words import in_line, say

if TYPE_CHECKING:
    from thetahat.generation.beam import Beam
    from thetahat.generation.sample import Sampling
    from thetahat.verbs.generate import Answer

MaxTokens = typer.Option(256, help="Stop a text after so many tokens.")
Stop = typer.Option(
    [],
    help=r"End a text before TEXT comes, \n, \t, \r and \\ read as in data.split_on; may come several times.",
    metavar="TEXT",
)
TopK = typer.Option(0, help="Choose among so many of the most likely; 0: all.")
TopP = typer.Option(1.0, help="Choose among the fewest that hold so much probability.")
Seed = typer.Option(0, help="Another seed, another text; the same seed, the same.")
Beams = typer.Option(0, help="Search for the likeliest text with so many beams instead of drawing one.")
LengthExponent = typer.Option(1.0, help="Of the length that beams are divided by; 0: the likeliest wins.")


def temperature(default: float) -> Any:
    """The option, with a default of the command's own."""
    return typer.Option(default, help="0: always the most likely token.")


def how_to_write(
    sampling: dict[str, Any], stop: list[str], beams: int, length_exponent: float, pairs: list[str], usual: float
) -> tuple["Sampling | Beam", list[str]]:
    """What the options mean, and the KEY=VALUE pairs that are not about it: `top_k=5` is `--top-k 5`.

    `usual` is the temperature where none is asked for: beams have no use for another, nor for what else draws.
    """
    from thetahat.core.config import from_plain, override
    from thetahat.core.errors import ConfigError
    from thetahat.generation.beam import Beam
    from thetahat.generation.sample import Sampling

    named = [pair for pair in pairs if pair.partition("=")[0] in {*sampling, "stop"}]
    others = [pair for pair in pairs if pair not in named]
    drawn = override(from_plain({**sampling, "stop": _stop_texts(stop)}, Sampling), named)
    if not beams:
        return drawn, others
    unused = {"temperature": usual, "top_k": TopK.default, "top_p": TopP.default, "seed": Seed.default}
    if ignored := [f"--{name.replace('_', '-')}" for name in unused if getattr(drawn, name) != unused[name]]:
        raise ConfigError(
            f"{' and '.join(ignored)} came with --beams, which draws nothing",
            allowed="--max-tokens, --stop and --length-exponent",
            cure=f"without {'it' if len(ignored) == 1 else 'them'}, or without --beams",
        )
    widths = {"num_beams": beams, "length_exponent": length_exponent}
    return from_plain({**widths, "max_tokens": drawn.max_tokens, "stop": drawn.stop}, Beam), others


def _stop_texts(given: list[str]) -> list[str]:
    from thetahat.core.errors import ConfigError
    from thetahat.core.plain import unescaped

    if "" in given:
        raise ConfigError("--stop is empty", allowed="a text of a character or more", cure="without it: --max-tokens")
    return [unescaped(as_unicode(text, "--stop")) for text in given]


def as_unicode(given: bytes | str, what: str) -> str:
    """Text that came as bytes, or on the command line, in whatever locale: UTF-8."""
    from thetahat.core.errors import DataError

    raw = os.fsencode(given)
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise DataError(f"{what} is not UTF-8: byte {error.start} is {raw[error.start]:#04x}") from error


def say_ended(answer: "Answer", how: "Sampling | Beam") -> None:
    """A line on why a text ended."""
    match answer.ended:
        case "end":
            say("ended: end, the model ended it")
        case "stop":
            say(f"ended: stop, before {in_line(repr(answer.stop_text))}")
        case "length":
            say(f"ended: length, --max-tokens {how.max_tokens}")
        case "context":
            say("ended: context, the model reads no more tokens at once")
