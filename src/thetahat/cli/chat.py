"""`thetahat chat`."""

import sys

import typer

from thetahat.cli.words import Quiet, emit, escape, listen_to_library, say, split_words


def chat(
    words: list[str] = typer.Argument(metavar="MODEL [KEY=VALUE]..."),
    system: str = typer.Option("", help="What the system says first."),
    max_tokens: int = typer.Option(256, help="Stop an answer after so many tokens."),
    temperature: float = typer.Option(0.7, help="0: always the most likely token."),
    top_p: float = typer.Option(1.0, help="Choose among the fewest that hold so much probability."),
    seed: int = typer.Option(0, help="Another seed, other answers."),
    quiet: bool = Quiet,
) -> None:
    """Talk to a model, with the template that it was trained with; an empty line or the end of input ends it."""
    listen_to_library(quiet=quiet)
    from thetahat.core.config import from_plain
    from thetahat.core.errors import ConfigError
    from thetahat.evaluation.generate import Sampling
    from thetahat.verbs.chat import answer
    from thetahat.verbs.load import load

    names, pairs = split_words(words)
    if len(names) != 1:
        raise ConfigError(f"{len(names)} models came", allowed="one", cure="thetahat chat runs/NAME")
    plain = {"max_tokens": max_tokens, "temperature": temperature, "top_p": top_p, "seed": seed}
    sampling, loaded = from_plain(plain, Sampling), load(names[0], tuple(pairs))
    messages = [{"role": "system", "content": system}] if system else []
    while (line := _ask()).strip():
        messages.append({"role": "user", "content": line.rstrip("\n")})
        text = answer(loaded, messages, sampling)
        emit(escape(text) if sys.stdout.isatty() else text)
        messages.append({"role": "assistant", "content": text or " "})
    if not quiet:
        say(f"Next: thetahat score {names[0]} DIALOGUES.jsonl")


def _ask() -> str:
    if sys.stdin.isatty():
        sys.stderr.write("> ")
        sys.stderr.flush()
    return sys.stdin.readline()
