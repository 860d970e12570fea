"""`thetahat completion`: a script for a shell, which asks the hidden command `complete` what may stand next."""

import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import typer

from thetahat.cli.hints import OF_CONFIGS
from thetahat.cli.words import emit
from thetahat.core.errors import ConfigError

OF_ALL_KEYS = (*OF_CONFIGS, "info", "cost")
OF_FILES = ("DATA", "FILE", "CONFIG", "TEXT", "A B")  # in the words for what a command takes
OF_FOLDERS = ("MODEL", "RUN", "DIR", "FOLDER")
PLACES = ("data.train", "data.held_out", "data.tokenizer", "data.chat.template", "base")
SCRIPTS = {
    "bash": """_thetahat() {
    local IFS=$'\\n'
    COMPREPLY=($("$1" complete -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null))
    [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *[=./] ]] && compopt -o nospace
    return 0
}
complete -o default -F _thetahat thetahat""",
    "zsh": """#compdef thetahat
_thetahat() {
    local -a found
    found=("${(@f)$(thetahat complete -- "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    found=(${found:#})
    if (( ${#found} )); then
        compadd -S '' -- ${(M)found:#*[=./]}
        compadd -- ${found:#*[=./]}
    else
        _files
    fi
}
compdef _thetahat thetahat""",
    "fish": """function __thetahat
    set -l words (commandline -opc) (commandline -ct)
    thetahat complete -- $words[2..-1] 2>/dev/null
end
complete -c thetahat -a '(__thetahat)'""",
}
WHERE = {
    "bash": "thetahat completion bash >> ~/.bashrc",
    "zsh": "thetahat completion zsh >> ~/.zshrc, behind compinit",
    "fish": "thetahat completion fish > ~/.config/fish/completions/thetahat.fish",
}
PASSED_ON = {"ignore_unknown_options": True, "help_option_names": []}


def completion(
    shell: str = typer.Argument(metavar="bash|zsh|fish"),
) -> None:
    """Print a script with which a shell completes commands, options, recipes, runs, files, keys and values.

    bash: thetahat completion bash >> ~/.bashrc. zsh: the same into ~/.zshrc, behind compinit. fish: into
    ~/.config/fish/completions/thetahat.fish.
    """
    if shell not in SCRIPTS:
        raise ConfigError(f"{shell} is no shell that is known here", allowed=", ".join(SCRIPTS), cure=WHERE["bash"])
    emit(SCRIPTS[shell])


def complete(context: typer.Context, words: list[str] | None = typer.Argument(None)) -> None:
    """Print what may stand in place of the last of these words, a line each."""
    for candidate in candidates(context.find_root().command, words or []):
        emit(candidate)


def candidates(program: Any, words: list[str]) -> list[str]:
    """What begins as the last word does and may stand there, behind the others.

    Where the shell divides words at `=`, as bash does, only the part behind it is replaced, so only that is given.
    """
    before, word, is_divided = _joined(words)
    command = program
    while before and hasattr(command, "commands") and before[0] in command.commands:
        command, before = command.commands[before[0]], before[1:]
    if hasattr(command, "commands"):
        found = [] if before else [name for name, one in command.commands.items() if not one.hidden]
        return _beginning(word, [*found, *_options(command)] if word.startswith("-") else found)
    if before and (option := _option(command, before[-1])) is not None and not option.is_flag:
        return _beginning(word, _values_of_option(command.name, before[-1]))
    if word.startswith("-"):
        return _beginning(word, [name for name in _options(command) if name not in before])
    key, equals, typed = word.partition("=")
    if equals and _takes(command, "KEY=VALUE"):
        found = _beginning(typed, _values(key)) or (_paths(typed) if _is_place(key) else [])
        return found if is_divided else [f"{key}={value}" for value in found]
    found = _beginning(word, _names(command) + _keys(command, word))
    return found + [path for path in _paths_for(command, word) if not any(one.startswith(path) for one in found)]


def _joined(words: list[str]) -> tuple[list[str], str, bool]:
    """The words before the last, the last, and whether `=` had divided it from its key."""
    if len(words) > 2 and words[-2] == "=":
        return words[:-3], f"{words[-3]}={words[-1]}", True
    if len(words) > 1 and words[-1] == "=":
        return words[:-2], f"{words[-2]}=", True
    return words[:-1], words[-1] if words else "", False


def _beginning(word: str, found: list[str]) -> list[str]:
    return [one for one in dict.fromkeys(found) if one.startswith(word)]


def _options(command: Any) -> list[str]:
    return [name for parameter in command.params for name in parameter.opts if name.startswith("--")]


def _option(command: Any, word: str) -> Any:
    return next((one for one in command.params if word.startswith("-") and word in one.opts), None)


def _takes(command: Any, what: str) -> bool:
    return any(what in (parameter.metavar or "") for parameter in command.params)


def _names(command: Any) -> list[str]:
    """Recipes and runs, where they may be named; of `keys` its prefixes, of `completion` shells."""
    from thetahat.recipes.catalogue import RECIPES

    found = [*RECIPES] if _takes(command, "RECIPE") else []
    if any(_takes(command, what) for what in ("MODEL", "RUN", "A B")):
        found += _runs()
    return found + ([*SCRIPTS] if command.name == "completion" else [])


def _paths_for(command: Any, word: str) -> list[str]:
    """Files and folders, where data or a config may be named; folders, where only a model or a run may."""
    names = " ".join(one.metavar or "" for one in command.params if one.param_type_name == "argument")
    if any(name in names for name in OF_FILES):
        return _paths(word)
    return _paths(word, only_folders=True) if any(name in names for name in OF_FOLDERS) else []


def _paths(word: str, *, only_folders: bool = False) -> list[str]:
    """What is there and begins so; a folder ends with a slash, unless it is a run, which is a word of its own."""
    above, slash, begin = word.rpartition("/")
    found: list[str] = []
    with suppress(OSError), os.scandir(above + slash or ".") as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            is_hidden = entry.name.startswith(".") and not begin.startswith(".")
            if is_hidden or not entry.name.startswith(begin) or any(map(str.isspace, entry.name)):
                continue  # a shell's own completion quotes a name with blanks
            if entry.is_dir():
                is_one = os.path.isdir(os.path.join(entry.path, "checkpoints"))
                found.append(f"{above}{slash}{entry.name}{'' if is_one else '/'}")
            elif not only_folders:
                found.append(f"{above}{slash}{entry.name}")
    return found


def _is_place(key: str) -> bool:
    """Whether the value of a key names files."""
    return key in PLACES or (key.startswith("data.sources.") and key.rpartition(".")[2] in {"path", "held_out"})


def _runs() -> list[str]:
    return sorted(folder.parent.as_posix() for folder in Path("runs").glob("*/checkpoints"))


def _keys(command: Any, word: str) -> list[str]:
    """Keys that begin so, up to the next dot; nothing is offered before the first letter, as there are too many."""
    from thetahat.core.schema import known_keys
    from thetahat.run.config import InferenceConfig, RunConfig

    is_prefix = command.name == "keys"
    if not (is_prefix or _takes(command, "KEY=VALUE")) or not (word or is_prefix):
        return []
    known = known_keys(RunConfig)
    if not is_prefix and command.name not in OF_ALL_KEYS:
        known = [*known_keys(InferenceConfig), "batch_size", "context"]
    leaves = [key for key in known if not any(other.startswith(f"{key}.") for other in known)]
    found: list[str] = []
    for key in leaves:
        rest = key[len(word) :] if key.startswith(word) else ""
        cut = re.search(r"\.", rest)
        if cut:
            found.append(key[: len(word) + cut.start()] + ("" if is_prefix else "."))
        elif rest or key == word:
            found.append(key if is_prefix else f"{key}=")
    return found


def _values(key: str) -> list[str]:
    """The values of a key that can be counted: variants, words, true and false; templates; runs for a base."""
    from typing import Literal, get_args, get_origin

    from thetahat.core.schema import alternatives, hint_at
    from thetahat.run.config import RunConfig

    if key == "data.chat.template":
        from thetahat.data.chat.template import TEMPLATES

        return [*TEMPLATES]
    if key == "base":
        return _runs()
    kinds = alternatives(hint_at(RunConfig, key.split(".")))
    found = [str(value) for kind in kinds if get_origin(kind) is Literal for value in get_args(kind)]
    found += ["true", "false"] if bool in kinds else []
    return found + (["none"] if found and type(None) in kinds else [])


def _values_of_option(command: str | None, option: str) -> list[str]:
    """What an option may be, where that can be counted; elsewhere the shell offers files."""
    if option == "--branch":
        return _runs()
    if command == "plot" and option in {"--y", "--x"}:
        return (
            ["likelihood", "bits", "gradient", "rate", "speed"] if option == "--y" else ["step", "targets", "minutes"]
        )
    if option == "--over-long":
        from thetahat.cli.decoding import OVER_LONG

        return ["error", "truncate-left"] if command == "choose" else [*OVER_LONG]
    return []
