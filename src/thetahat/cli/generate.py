"""`thetahat generate`."""

import json as to_json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from thetahat.cli.decoding import Decoding, as_unicode, how_to_write, load_to_write, say_ended
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
    prompts: str = typer.Option(
        "", help="A .jsonl of prompts or dialogues, or a .txt with a prompt a line: all are answered."
    )
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
    after it as "generated", and as "ended" why that ended: end, stop, length or context. data.columns.prompt=question
    reads the field `question` as the prompt. Of a .txt each line is a prompt.
    """
    listen_to_library(quiet=quiet)
    from thetahat.core import store
    from thetahat.core.errors import ConfigError
    from thetahat.run.folder.absent import refuse_absent

    names, pairs = split_words(words)
    if len(names) != 1:
        raise ConfigError(f"{len(names)} models came", allowed="one", cure="thetahat generate runs/NAME --prompt TEXT")
    given = typed_as(Given, typed)
    prompts, out = given.prompts, given.out
    if given.prompt and prompts:
        raise ConfigError("--prompt and --prompts came", allowed="one of them")
    if out and not prompts:
        raise ConfigError(f"--out {out} without --prompts", cure="--prompts FILE.jsonl --out FILE, or > FILE")
    refuse_absent(names[0])
    decoding = typed_as(Decoding, typed)
    how, pairs = how_to_write(decoding, pairs, TEMPERATURE)
    if out:
        store.check_target(out)
    text = as_unicode(sys.stdin.buffer.read() if given.prompt == "-" else given.prompt, "the prompt")
    loaded = load_to_write(names[0], pairs, decoding)
    if prompts:
        from thetahat.cli.progress import token_progress
        from thetahat.verbs.answer import answer_records

        with token_progress(shown=not quiet, unit="texts") as shows:
            answered = answer_records(loaded, prompts, how, shows)
        is_answered = _answer(answered, out, json=json)
        following = _next(names[0], loaded, prompts, out, is_answered=is_answered)
    else:
        _continue(loaded, text, how, json=json, quiet=quiet)
        following = f"thetahat score {names[0]} YOUR.txt"
    if not quiet and not json:
        say(f"\nNext: {following}")


def _answer(answered: list[dict[str, Any]], out: Path | None, *, json: bool) -> bool:
    """Writes the answers; whether each record holds one of its own, which can be scored."""
    from thetahat.core import store
    from thetahat.data.read.prompt import is_answered

    lines = "".join(to_json.dumps(record, ensure_ascii=False) + "\n" for record in answered)
    if out is None:
        emit(lines, end="")  # JSON as it is
    else:
        store.write_text(out, lines)
        emit_json({"out": str(out), "num_texts": len(answered)}) if json else emit(str(out))
    return all(map(is_answered, answered))


def _next(name: str, loaded: "Loaded", prompts: str, out: Path | None, *, is_answered: bool) -> str:
    """A command that has something to do: what is scored needs answers."""
    if is_answered:
        return f"thetahat score {name} {prompts}, for how likely the answers are that {prompts} holds"
    if out is None:
        return "the same with --out FILE.jsonl, which keeps the answers"
    return f"thetahat chat {name}" if loaded.card.chat else f"thetahat generate {name} --prompt TEXT"


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
