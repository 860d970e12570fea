"""What the names beside KEY=VALUE mean: the first what a run starts from, or else data; all others data."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

START = "one recipe, config.toml or model"


def divide_names(names: Sequence[str]) -> tuple[str | None, list[str]]:
    """What a run starts from, None if nothing is named, and the places of its data.

    The name of a recipe means the recipe, also where a folder has it, which is typed as ./NAME. A folder that is no
    model is data if a file in it is.
    """
    if not names or is_place(names[0]):
        first, places = None, list(names)
    else:
        first, *places = names
    for place in places:
        _refuse_start(place, first)
    return first, places


def as_pairs(places: Sequence[str], pairs: Sequence[str]) -> list[str]:
    """The KEY=VALUE that means these places; raises ConfigError where `pairs` name data, too."""
    from thetahat.core.errors import ConfigError

    if not places:
        return []
    if twice := [pair for pair in pairs if pair.partition("=")[0] == "data.train"]:
        raise ConfigError(f"data came twice: {', '.join(places)} and {', '.join(twice)}", cure=f"leave out {twice[0]}")
    return [f"data.train={json.dumps(places[0] if len(places) == 1 else list(places), ensure_ascii=False)}"]


def is_place(name: str) -> bool:
    """Whether a name is data: standard input, a URL, the kind of a file, a glob, or a folder of files that is no model.

    What does not exist is data if it ends as data does, so that it is missed as such. A file is data unless it ends in
    .toml, or has no ending and is TOML.
    """
    from thetahat.recipes.catalogue import RECIPES

    if name in RECIPES or name.endswith(".toml"):
        return False
    if name == "-" or name.startswith("bundled:") or "://" in name:
        return True
    if not os.path.exists(name) and not any(character in name for character in ".*?["):
        return False  # a word, as a recipe is: no reader of files needs to be imported
    if os.path.isdir(name):
        return not _is_model(Path(name)) and _holds_data(Path(name))
    if os.path.isfile(name):
        return bool(Path(name).suffix) or not _is_config(Path(name))
    from thetahat.data.read.named.kind import KINDS, kind_of_file

    return kind_of_file(Path(name)) in {*KINDS, ".json", ".md"} or any(character in name for character in "*?[")


def _is_config(path: Path) -> bool:
    """Whether a file without an ending is TOML, as a config is, and not a text."""
    import tomllib

    try:
        return bool(tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):  # of what is no UTF-8, too
        return False


def _is_model(folder: Path) -> bool:
    from thetahat.core.store import MANIFEST
    from thetahat.interop.folder import is_hub_folder
    from thetahat.run.folder.checkpoint import MODEL

    return is_hub_folder(folder) or any((folder / name).exists() for name in ("checkpoints", MODEL, MANIFEST))


def _holds_data(folder: Path) -> bool:
    """Whether a file is below the folder, of whatever kind, and none belongs to a run, whose files are records."""
    found = False
    for _, folders, files in os.walk(folder):
        if "checkpoints" in folders:
            return False
        found = found or any(not file.startswith(".") for file in files)
    return found


def _refuse_start(place: str, first: str | None) -> None:
    """A second name that could be a start is an error: whoever typed it may have meant that."""
    from thetahat.core.errors import ConfigError
    from thetahat.recipes.catalogue import RECIPES

    is_start = place in RECIPES or place.endswith(".toml") or place.startswith("hf:")
    if not is_start and not (os.path.isdir(place) and _is_model(Path(place))):
        return
    shown, exists = f"{first} and {place}" if first else place, os.path.exists(place)
    cure = f"./{place}, if it is data" if place in RECIPES and exists else ""
    if first is None:
        raise ConfigError(f"{shown} stands behind data", allowed=f"{START} first, then data", cure=cure)
    raise ConfigError(f"{shown}: two names of what to start from", allowed=f"{START}, then data", cure=cure)
