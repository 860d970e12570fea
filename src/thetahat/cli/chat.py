"""`thetahat chat`."""

import itertools
import sys
from typing import Any

import typer

from thetahat.cli.decoding import Decoding, as_unicode, how_to_write, load_to_write, say_ended
from thetahat.cli.options import options_of, typed_as
from thetahat.cli.words import Quiet, emit, escape, listen_to_library, say, split_words

TEMPERATURE = 0.7


@options_of(Decoding)
def chat(
    words: list[str] = typer.Argument(metavar="MODEL [KEY=VALUE]..."),
    system: str = typer.Option("", help="What the system says first."),
    quiet: bool = Quiet,
    **typed: Any,
) -> None:
    """Talk to a model, with the template that it was trained with; an empty line or the end of input ends it."""
    listen_to_library(quiet=quiet)
    from thetahat.core.errors import ConfigError
    from thetahat.run.folder.absent import refuse_absent

    names, pairs = split_words(words)
    if len(names) != 1:
        raise ConfigError(f"{len(names)} models came", allowed="one", cure="thetahat chat runs/NAME")
    refuse_absent(names[0])
    from thetahat.run.writing.dialogue import check_talks
    from thetahat.verbs.chat import answer

    decoding = typed_as(Decoding, typed)
    how, pairs = how_to_write(decoding, pairs, TEMPERATURE)
    loaded = load_to_write(names[0], pairs, decoding)
    check_talks(loaded)
    if sys.stdin.isatty() and not quiet:
        say("An empty line ends it.")
    messages = [{"role": "system", "content": as_unicode(system, "--system")}] if system else []
    for number in itertools.count(1):
        if not (said := _ask(number)).strip():
            break
        messages.append({"role": "user", "content": said})
        found = answer(loaded, messages, how)
        emit(escape(found.text) if sys.stdout.isatty() else found.text)
        if found.ended != "end" and not quiet:
            say_ended(found, how)
        messages.append({"role": "assistant", "content": found.text})
    if not quiet:
        say(f"Next: thetahat score {names[0]} DIALOGUES.jsonl")


def _ask(number: int) -> str:
    """The next line, as bytes that must be UTF-8 whatever the locale says; a byte order mark may begin the first."""
    if sys.stdin.isatty():
        sys.stderr.write("> ")
        sys.stderr.flush()
    line = as_unicode(sys.stdin.buffer.readline(), f"line {number} of standard input")
    return line.removeprefix("\ufeff" if number == 1 else "").rstrip("\r\n")
