"""`thetahat chat`."""

import sys

import typer

from thetahat.cli.decoding import Beams, LengthExponent, MaxTokens, Seed, TopK, TopP, how_to_write, temperature
from thetahat.cli.words import Quiet, emit, escape, listen_to_library, say, split_words

TEMPERATURE = 0.7


def chat(
    words: list[str] = typer.Argument(metavar="MODEL [KEY=VALUE]..."),
    system: str = typer.Option("", help="What the system says first."),
    max_tokens: int = MaxTokens,
    temperature: float = temperature(TEMPERATURE),
    top_k: int = TopK,
    top_p: float = TopP,
    seed: int = Seed,
    beams: int = Beams,
    length_exponent: float = LengthExponent,
    quiet: bool = Quiet,
) -> None:
    """Talk to a model, with the template that it was trained with; an empty line or the end of input ends it."""
    listen_to_library(quiet=quiet)
    from thetahat.core.errors import ConfigError
    from thetahat.verbs.chat import answer
    from thetahat.verbs.load import load

    names, pairs = split_words(words)
    if len(names) != 1:
        raise ConfigError(f"{len(names)} models came", allowed="one", cure="thetahat chat runs/NAME")
    chosen = {"max_tokens": max_tokens, "temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": seed}
    how, pairs = how_to_write(chosen, beams, length_exponent, pairs, TEMPERATURE)
    loaded = load(names[0], tuple(pairs))
    messages = [{"role": "system", "content": system}] if system else []
    while (line := _ask()).strip():
        messages.append({"role": "user", "content": line.rstrip("\n")})
        text = answer(loaded, messages, how)
        emit(escape(text) if sys.stdout.isatty() else text)
        messages.append({"role": "assistant", "content": text or " "})
    if not quiet:
        say(f"Next: thetahat score {names[0]} DIALOGUES.jsonl")


def _ask() -> str:
    if sys.stdin.isatty():
        sys.stderr.write("> ")
        sys.stderr.flush()
    return sys.stdin.readline()
