"""`thetahat generate`."""

import json as to_json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from thetahat.cli.decoding import Decoding, as_unicode, how_to_write, say_ended
from thetahat.cli.options import options_of, typed_as
from thetahat.cli.words import Json, Quiet, emit, emit_json, escape, listen_to_library, say, split_words

if TYPE_CHECKING:
    from thetahat.generation.beam import Beam
    from thetahat.generation.sample import Sampling
    from thetahat.verbs.load import Loaded

TEMPERATURE = 1.0


@dataclass(frozen=True, slots=True)
class Given:
    """What a model is given to go on from, and where that goes."""

    prompt: str = typer.Option("", help="The text to continue; - reads standard input.")
    prompts: str = typer.Option("", help="A .jsonl of prompts or dialogues to answer, all of them.")
    out: Path | None = typer.Option(
        None, help="Where the answers to --prompts are written; without it standard output.", show_default=False
    )


@options_of(Given, Decoding)
def generate(
    words: list[str] = typer.Argument(metavar="MODEL [KEY=VALUE]..."),
    quiet: bool = Quiet,
    json: bool = Json,
    **typed: Any,
) -> None:
    """Continue a text, answer a prompt (encoder-decoders), or fill each <|mask|> in it (encoders).

    With --prompts, a line for each line of the file: {"prompt": ...} or {"messages": [...]}, and in it what is written
    after it as "generated", and as "ended" why that ended: end, stop, length or context.
    """
    listen_to_library(quiet=quiet)
    from thetahat.core import store
    from thetahat.core.errors import ConfigError
    from thetahat.verbs.load import load

    names, pairs = split_words(words)
    if len(names) != 1:
        raise ConfigError(f"{len(names)} models came", allowed="one", cure="thetahat generate runs/NAME --prompt TEXT")
    given = typed_as(Given, typed)
    prompts, out = given.prompts, given.out
    if given.prompt and prompts:
        raise ConfigError("--prompt and --prompts came", allowed="one of them")
    if out and not prompts:
        raise ConfigError(f"--out {out} without --prompts", cure="--prompts FILE.jsonl --out FILE, or > FILE")
    how, pairs = how_to_write(typed_as(Decoding, typed), pairs, TEMPERATURE)
    if out:
        store.check_target(out)
    text = as_unicode(sys.stdin.buffer.read() if given.prompt == "-" else given.prompt, "the prompt")
    loaded = load(names[0], tuple(pairs))
    if prompts:
        _answer(loaded, prompts, how, out, json=json)
    else:
        _continue(loaded, text, how, json=json, quiet=quiet)
    if not quiet and not json:
        say(f"\nNext: thetahat score {names[0]} {prompts or 'YOUR.txt'}")


def _answer(loaded: "Loaded", prompts: str, how: "Sampling | Beam", out: Path | None, *, json: bool) -> None:
    from thetahat.core import store
    from thetahat.verbs.answer import answer_records

    answered = answer_records(loaded, prompts, how)
    lines = "".join(to_json.dumps(record, ensure_ascii=False) + "\n" for record in answered)
    if out is None:
        emit(lines, end="")  # JSON as it is
        return
    store.write_text(out, lines)
    if json:
        emit_json({"out": str(out), "num_texts": len(answered)})
    else:
        emit(str(out))


def _continue(loaded: "Loaded", text: str, how: "Sampling | Beam", *, json: bool, quiet: bool) -> None:
    from thetahat.model.decoder import Decoder
    from thetahat.verbs.generate import generate as continue_text

    written = continue_text(loaded, text, how)
    if json:
        continuation = "".join(written)
        emit_json({"prompt": text, "continuation": continuation, **written.answer.to_dict()})
        return
    if isinstance(loaded.model, Decoder):  # others do not begin with what they were given
        emit(_shown(text), end="")
    for piece in written:
        emit(_shown(piece), end="")
    emit("")
    if not quiet:
        say_ended(written.answer, how)


def _shown(text: str) -> str:
    """Raw to a file or a pipe; on a terminal without its control characters."""
    return escape(text) if sys.stdout.isatty() else text
