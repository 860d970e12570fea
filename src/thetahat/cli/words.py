"""Messages to stderr, data to stdout, errors with an exit code."""

import json
import logging
import os
import re
import shutil
import sys
import textwrap
from typing import Any, NoReturn

import typer

from thetahat.core.errors import ThetahatError
from thetahat.core.plain import as_json
from thetahat.distribution.elastic import tell_launcher

Words = typer.Argument(None, metavar="[RECIPE|CONFIG.toml|MODEL] [DATA]... [KEY=VALUE]...", show_default=False)
Json = typer.Option(False, "--json", help="One JSON object as the last line of stdout.")
PROGRAM = "thetahat: "  # what an error begins with
Quiet = typer.Option(False, "--quiet", "-q", help="No progress, notes or advice: the result and errors only.")


def is_first_rank() -> bool:
    """Whether this process writes messages and results."""
    return os.environ.get("RANK", "0") == "0"


def say(text: str) -> None:
    """Writes a line for a person to stderr."""
    _end_line()
    sys.stderr.write(f"{folded(text)}\n")
    sys.stderr.flush()


def folded(text: str) -> str:
    """The text in lines that end between words where stderr is a terminal; a command, which may be copied, is whole.

    What stands four blanks behind a command is said below it. Elsewhere every line stays as it is.
    """
    if not sys.stderr.isatty():
        return text
    width = shutil.get_terminal_size().columns
    return "\n".join(line if len(line) <= width else _filled(line, width) for line in text.split("\n"))


def _filled(line: str, width: int) -> str:
    """A line that is too long."""
    indent = line[: len(line) - len(line.lstrip(" "))]
    told = re.fullmatch(r" *\S.*?(?<! )( {4,})(\S.*)", line)
    if told and ("thetahat " in line or line.startswith("Next:")):
        below = " " * (len(indent) + 4)
        return f"{line[: told.start(1)]}\n{_filled(below + told[2], width)}"
    if "thetahat " in line.removeprefix(PROGRAM) or line.startswith("Next:"):
        return line
    below = f"{indent}  " if indent else ""
    prose = textwrap.TextWrapper(
        width, subsequent_indent=below, break_long_words=False, break_on_hyphens=False, drop_whitespace=True
    )
    return prose.fill(line)


_begun: list[bool] = []  # not empty where what was written to stdout last ended within a line


def _end_line() -> None:
    """On a terminal, where text and words share the screen, words do not stand behind half a line of text."""
    if _begun and sys.stdout.isatty() and sys.stderr.isatty():
        sys.stderr.write("\n")
    _begun.clear()


def emit(text: str, *, end: str = "\n") -> None:
    """Writes data to stdout."""
    if written := f"{text}{end}":
        _begun[:] = [] if written.endswith("\n") else [True]
    sys.stdout.write(f"{text}{end}")
    sys.stdout.flush()


def emit_words(text: str) -> None:
    """Writes what is said in words, between data, to stdout; on a terminal in lines that end between words."""
    emit(folded(text) if sys.stdout.isatty() else text)


def emit_json(value: Any) -> None:
    """One JSON object on one line: what a verb returned, or a mapping."""
    emit(json.dumps(as_json(value), ensure_ascii=False, allow_nan=False))


def wants_json() -> bool:
    """Whether the command was typed with `--json`, for errors that come before or after options are parsed."""
    return "--json" in sys.argv[1:]


def emit_error(error: ThetahatError) -> None:
    """What `--json` prints instead of a result: {"error": {kind, exit_code, message, allowed, cure}}."""
    told = {name: getattr(error, name) or None for name in ("allowed", "cure")}
    emit_json({"error": {"kind": type(error).__name__, "exit_code": error.exit_code, "message": error.what, **told}})


def fail(error: ThetahatError) -> NoReturn:
    """Says what went wrong and ends the process with the error's exit code."""
    _tell(error)
    tell_launcher(str(error))
    sys.exit(error.exit_code)


def _tell(error: ThetahatError) -> None:
    say(f"{PROGRAM}{escape(str(error))}")
    if wants_json() and is_first_rank():
        emit_error(error)


def escape(text: str) -> str:
    """The text with control characters escaped, since it may come from data."""
    return "".join(
        character
        if character in "\n\t" or character.isprintable()
        else character.encode("unicode_escape", "surrogatepass").decode()
        for character in text
    )


def in_line(text: str) -> str:
    """A name or an id from data, escaped so that it stays on one line."""
    return escape(text).replace("\n", "\\n").replace("\t", "\\t")


def listen_to_library(*, quiet: bool, facts: bool = True) -> None:
    """Writes the library's log lines to stderr: none if `quiet`, since errors are raised; without `facts`, warnings."""
    handler = _ToStderr()
    handler.setFormatter(_Escaping("%(message)s"))
    logger = logging.getLogger("thetahat")
    logger.handlers = [handler]
    handler.setLevel(logging.ERROR if quiet else logging.NOTSET)
    logger.setLevel(logging.INFO if facts and is_first_rank() else logging.WARNING)


class _ToStderr(logging.Handler):
    """Writes to what stderr is by then: a display puts another in its place, which keeps a bar below the lines."""

    def emit(self, record: logging.LogRecord) -> None:
        if isinstance(error := getattr(record, "ends", None), ThetahatError):  # a thread ends the process with it
            return _tell(error)
        sys.stderr.write(f"{self.format(record)}\n")
        sys.stderr.flush()


class _Escaping(logging.Formatter):
    """Escapes control characters, since a log line may quote data."""

    def format(self, record: logging.LogRecord) -> str:
        _end_line()
        return folded(escape(super().format(record)))


def split_words(words: list[str] | None) -> tuple[list[str], list[str]]:
    """Names, and KEY=VALUE pairs. A path that exists is a name, unless its left side is a key of the config."""
    is_pair = [_is_pair(word) for word in words or []]
    pairs = list(zip(words or [], is_pair, strict=True))
    return [word for word, is_one in pairs if not is_one], [word for word, is_one in pairs if is_one]


_IN_KEYS = str.maketrans("", "", "._-")  # what stands between the letters of a key: names of alarms and sources, too


def _is_pair(word: str) -> bool:
    key, equals, _ = word.partition("=")
    if not equals or word.startswith("-") or not key.translate(_IN_KEYS).isalnum():
        return False
    return not os.path.exists(word) or _is_key(key)


def _is_key(key: str) -> bool:
    from thetahat.core.schema import known_keys
    from thetahat.run.config import RunConfig

    return key in known_keys(RunConfig)


def find_config(words: list[str] | None) -> Any:
    """The RunConfig that [RECIPE | CONFIG.toml | MODEL] [DATA ...] [KEY=VALUE ...] means; the quickstart by default.

    The folder of a model means that training goes on from it; one with the name of a recipe is typed as ./NAME.
    DATA is short for data.train=DATA.
    """
    from thetahat.cli.hints import refuse_names_of_others
    from thetahat.cli.places import as_pairs, divide_names
    from thetahat.core.config import override
    from thetahat.recipes.catalogue import RECIPES, find_recipe, take_dials

    names, pairs = split_words(words)
    first, places = divide_names(names)
    name, pairs = first or "quickstart", [*as_pairs(places, pairs), *pairs]
    dials, pairs = take_dials(name, pairs)
    refuse_names_of_others(pairs)
    if name not in RECIPES and (os.path.isdir(name) or name.startswith("hf:")):
        from thetahat.recipes.fine_tuning import fine_tuning
        from thetahat.run.folder.stored import find_model

        config = fine_tuning(name, find_model(name).card)
    else:
        is_file = name.endswith(".toml") or os.path.isfile(name)
        config = _read_config(name) if is_file else find_recipe(name, **dials)
    config = override(config, pairs)
    _refuse_overruled(config, pairs, name)
    return config


def _refuse_overruled(config: Any, pairs: list[str], name: str) -> None:
    """What was typed, or stands in a file, and would be overruled by a base or a tokenizer is an error."""
    if config.base or config.data.tokenizer:
        from pathlib import Path

        from thetahat.core.config import settings, settings_of
        from thetahat.run.base import refuse_typed

        written = settings_of(Path(name).read_text(encoding="utf-8")) if name.endswith(".toml") else {}
        refuse_typed(config, settings(pairs, type(config)), written)


def _read_config(name: str) -> Any:
    from pathlib import Path

    from thetahat.cli.hints import refuse_names_of_others
    from thetahat.core.config import from_toml, override
    from thetahat.core.errors import ConfigError
    from thetahat.recipes.catalogue import find_recipe
    from thetahat.run.config import RunConfig

    if "=" in name and not name.endswith(".toml"):
        refuse_names_of_others([name])
        return override(find_recipe("quickstart"), [name])  # a file has the name of a key that is none: that is said
    try:
        return from_toml(Path(name).read_text(encoding="utf-8"), RunConfig, name=name)
    except FileNotFoundError as error:
        raise ConfigError(f"there is no file {name}", cure=_near_config(name)) from error
    except (OSError, UnicodeDecodeError, ConfigError) as error:
        if name.endswith(".toml"):
            raise error if isinstance(error, ConfigError) else ConfigError(f"{name} cannot be read: {error}") from error
        raise ConfigError(
            f"{name} is neither a recipe nor a config.toml", cure=f"data.train={name}, to train on it"
        ) from error


def _near_config(name: str) -> str:
    """The config files that there are, in the place that was named and among the runs; those alike come first."""
    import difflib
    from pathlib import Path

    there = [path.as_posix() for path in (*Path(name).parent.glob("*.toml"), *Path().glob("runs/*/config.toml"))]
    near = difflib.get_close_matches(name, there, n=3, cutoff=0.3) or sorted(there)[:3]
    return ", or ".join(near) or "thetahat recipes shows what there is to start from"
