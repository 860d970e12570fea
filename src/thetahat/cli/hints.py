"""What was meant by a key, an option or a command that does not exist."""

import difflib
import sys
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

from thetahat.core.errors import ConfigError, ThetahatError

OF_CONFIGS = ("train", "explain", "verify", "replay", "bench")  # commands that take all keys of a run
ALIKE = 0.75  # of two names, from which on one may be a misspelling of the other


def refuse_names_of_others(pairs: Sequence[str]) -> None:
    """Raises ConfigError for a KEY=VALUE whose key is another trainer's, with what to type instead."""
    from thetahat.core.schema import hint_at, known_keys
    from thetahat.run.config import RunConfig

    known = known_keys(RunConfig)
    for key, _, value in (pair.partition("=") for pair in pairs):
        if (
            hint_at(RunConfig, key.split(".")) is None
            and not _is_misspelled(key, known)
            and (told := meant(key, value))
        ):
            raise ConfigError(f"unknown config key {key!r}", cure=told)


def _is_misspelled(key: str, known: Iterable[str]) -> bool:
    """Whether a key below a table of ours is nearly another key there."""
    above, dot, leaf = key.rpartition(".")
    beside = [name.rpartition(".")[2] for name in known if name.rpartition(".")[0] == above]
    return bool(dot and difflib.get_close_matches(leaf, beside, cutoff=ALIKE))


def meant(name: str, value: str) -> str:
    """What to type for a name of another trainer, by its last part if it has several; empty where it is unknown."""
    from thetahat.cli.names import MEANT

    leaf = name.lstrip("-").replace("-", "_").casefold().split(".")[-1]
    return MEANT.get(leaf, "").replace("{value}", value or "...")


def misused(error: Any) -> ThetahatError:
    """An option, an argument or a command that does not exist, is missing or does not fit, with what to type."""
    said = _without_advice(error.format_message())
    command = error.ctx.command_path if error.ctx else "thetahat"
    cure = f"{command} --help"
    if option := getattr(error, "option_name", None):
        cure = _of_option(option, error) or cure
    elif said.startswith("No such command") and error.ctx:
        cure = _of_command(said, error.ctx, command) or cure
    return ConfigError(said[:1].lower() + said[1:], cure=cure)


def _without_advice(said: str) -> str:
    """A message of the parser without its own guess, which is said as all of ours are."""
    return said.partition(" Did you mean")[0].partition(" (Possible options")[0].rstrip(". ")


def _of_option(option: str, error: Any) -> str:
    """An option that is spelled alike, or the KEY=VALUE that was meant."""
    command = error.ctx.command
    options = [name for parameter in command.params for name in parameter.opts if name.startswith("--")]
    name, _, value = option.partition("=")
    value = value or _typed_behind(option)
    if near := difflib.get_close_matches(name.replace("_", "-"), options, n=1, cutoff=ALIKE):
        return f"{near[0]} {value}".rstrip() if _takes_value(command, near[0]) else near[0]
    if not any(parameter.metavar and "KEY=VALUE" in parameter.metavar for parameter in command.params):
        return ""
    return _as_key(name, value, command.name)


def _as_key(name: str, value: str, command: str) -> str:
    from thetahat.core.schema import known_keys, near_keys
    from thetahat.run.config import InferenceConfig, RunConfig

    key, typed = name.lstrip("-").replace("-", "_"), value or "..."
    if command not in OF_CONFIGS:
        known = [*known_keys(InferenceConfig), "batch_size", "context"]
        told = meant(name, value).replace("data.context", "context")
        return f"{key}={typed}" if key in known else told if told.partition("=")[0] in known else ""
    if key in known_keys(RunConfig):
        return f"{key}={typed}"
    return meant(name, value) or " or ".join(f"{near}={typed}" for near in near_keys(key.split("."), RunConfig))


def _takes_value(command: Any, option: str) -> bool:
    return not next(parameter.is_flag for parameter in command.params if option in parameter.opts)


def _typed_behind(option: str) -> str:
    """The word behind an option, if it is a value."""
    for word, behind in pairwise([*sys.argv[1:], ""]):
        if word == option and not behind.startswith("--"):
            return behind
        if word.startswith(f"{option}="):
            return word.partition("=")[2]
    return ""


def _of_command(said: str, context: Any, above: str) -> str:
    """The command that is spelled alike, or that another program has by this name."""
    from thetahat.cli.names import COMMANDS

    typed = said.partition("'")[2].rstrip("'")
    near = difflib.get_close_matches(typed, context.command.commands, n=1, cutoff=0.6)
    return f"{above} {near[0]}" if near else COMMANDS.get(typed, "")
