"""How a text is written: the options that `generate` and `chat` share."""

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import typer

from thetahat.cli.words import in_line, say

if TYPE_CHECKING:
    from thetahat.generation.beam import Beam
    from thetahat.generation.sample import Sampling
    from thetahat.run.writing.write import Answer
    from thetahat.verbs.load import Loaded

OVER_LONG = "error", "keep-last-turns", "truncate-left", "truncate-right"

DRAWING = ("temperature", "top_k", "top_p", "seed")  # what sets how tokens are drawn


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoding:
    """How a text is written, as it was typed."""

    max_tokens: int = typer.Option(256, help="Stop a text after so many tokens.")
    stop: list[str] = typer.Option(
        [],
        help=r"End a text before TEXT comes, \n, \t, \r and \\ read as in data.split_on; may come several times.",
        metavar="TEXT",
    )
    temperature: float | None = typer.Option(
        None, help="0: always the most likely token. Without it 1, in a chat 0.7.", show_default=False
    )
    top_k: int = typer.Option(0, help="Choose among so many of the most likely; 0: all.")
    top_p: float = typer.Option(1.0, help="Choose among the fewest that hold so much probability.")
    seed: int = typer.Option(0, help="Another seed, another text; the same seed, the same.")
    beams: int = typer.Option(0, help="Search for the likeliest text with so many beams instead of drawing one.")
    length_exponent: float = typer.Option(1.0, help="Of the length that beams are divided by; 0: the likeliest wins.")
    over_long: str = typer.Option(
        "",
        help="What becomes of a prompt or dialogue that is too long: error, keep-last-turns, truncate-left or "
        "truncate-right; without it as in training.",
        show_default=False,
    )


def how_to_write(typed: Decoding, pairs: list[str], temperature: float) -> tuple["Sampling | Beam", list[str]]:
    """What the options mean, and the KEY=VALUE pairs that are not about it: `top_k=5` is `--top-k 5`.

    `temperature` is that of a command where none is typed. Beams draw nothing: with them whatever sets how is drawn
    is refused.
    """
    from thetahat.core.config import from_plain, override
    from thetahat.core.errors import ConfigError
    from thetahat.generation.beam import Beam
    from thetahat.generation.sample import Sampling

    sampling = {name: getattr(typed, name) for name in ("max_tokens", *DRAWING)}
    sampling |= {"stop": _stop_texts(typed.stop)}
    usual = Sampling(temperature=temperature)
    if typed.temperature is None:
        sampling |= {"temperature": temperature}
    named = [pair for pair in pairs if pair.partition("=")[0] in sampling]
    others = [pair for pair in pairs if pair not in named]
    drawn = override(from_plain(sampling, Sampling), named)
    if not typed.beams:
        return drawn, others
    if ignored := [name for name in DRAWING if getattr(drawn, name) != getattr(usual, name)]:
        raise ConfigError(
            f"{' and '.join(f'--{name}'.replace('_', '-') for name in ignored)} came with --beams, which draws nothing",
            allowed="--max-tokens, --stop and --length-exponent",
            cure=f"without {'it' if len(ignored) == 1 else 'them'}, or without --beams",
        )
    widths = {"num_beams": typed.beams, "length_exponent": typed.length_exponent}
    return from_plain({**widths, "max_tokens": drawn.max_tokens, "stop": drawn.stop}, Beam), others


def load_to_write(name: str, pairs: list[str], typed: Decoding) -> "Loaded":
    """The model, and with it what becomes of what is too long."""
    from thetahat.core.errors import ConfigError
    from thetahat.verbs.generate import with_policy
    from thetahat.verbs.load import load

    if typed.over_long not in {"", *OVER_LONG}:
        raise ConfigError(f"--over-long {typed.over_long}", allowed=", ".join(OVER_LONG))
    loaded = load(name, tuple(pairs))
    return with_policy(loaded, typed.over_long) if typed.over_long else loaded  # pyright: ignore[reportArgumentType]


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
