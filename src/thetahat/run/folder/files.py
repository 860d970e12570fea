"""What lies where in a run folder; no torch is needed to look."""

import hashlib
import json
import os
import re
import stat
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from thetahat.core import store
from thetahat.core.errors import ModelError
from thetahat.ledger.evaluated import Evaluated

MODEL, OPTIMIZER, STATE = "model.safetensors", "optimizer.safetensors", "state.json"
AVERAGE = "average.safetensors"
CONFIG, CARD = "config.toml", "card.toml"
CHECKPOINTS = "checkpoints"
_END = ".safetensors"


def file_name(kind: str, number: int, count: int) -> str:
    """The name of one of the `count` files, counted from 1, of a kind of tensors: MODEL, OPTIMIZER or AVERAGE.

    It is that of the kind where there is one file, else as transformers has it: model-00001-of-00002.safetensors.
    """
    return kind if count == 1 else f"{kind.removesuffix(_END)}-{number:05}-of-{count:05}{_END}"


def kind_of(name: str) -> str:
    """The kind of which a file of this name has tensors; for other files their name."""
    return re.sub(rf"-\d{{5,}}-of-\d{{5,}}{re.escape(_END)}$", _END, name)


@final
@dataclass(frozen=True, slots=True)
class FilesOf:
    """The names of all files of some kinds."""

    kinds: tuple[str, ...]

    def __contains__(self, name: object) -> bool:
        return kind_of(str(name)) in self.kinds


def paths_of(path: Path) -> list[Path]:
    """Where the tensors of FOLDER/KIND lie: there, or in the several files that the manifest of the folder names."""
    if path.is_file():
        return [path]
    is_published = (path.parent / store.MANIFEST).is_file()
    names = sorted(store.names(path.parent)) if is_published else []
    return [path.parent / name for name in names if kind_of(name) == path.name]


def is_there(path: Path) -> bool:
    """Whether there are tensors at FOLDER/KIND, in one file or in several."""
    with suppress(ModelError):
        return bool(paths_of(path))
    return False


def digest_of(folder: Path, kind: str) -> str:
    """The SHA-256 of the tensors of a kind, as the manifest has it: of several files that of all."""
    names = sorted(name for name in store.names(folder) if kind_of(name) == kind)
    if not names:
        raise ModelError(f"{folder} has no {kind}")
    return joined(store.digest_in(folder, name) for name in names)


def joined(digests: Iterable[str]) -> str:
    """Of one digest itself, of several that of all."""
    one, *others = digests
    return hashlib.sha256("\n".join([one, *others]).encode()).hexdigest() if others else one


def is_run(folder: Path) -> bool:
    """Whether this is the folder of a run, though it may have saved nothing yet."""
    return (folder / CONFIG).is_file() and (folder / CHECKPOINTS).is_dir()


def folder_of(run: Path, step: int) -> Path:
    """The folder of the checkpoint of a step."""
    return run / CHECKPOINTS / f"step-{step:08d}"


def step_of(folder: Path) -> int:
    """The number in a checkpoint's name."""
    return int(folder.name.removeprefix("step-"))


def all_checkpoints(run: Path) -> list[Path]:
    """Published checkpoints, oldest first; files and folders of other names are not looked at."""
    above = run / CHECKPOINTS
    with store.reading(above):
        try:
            names = os.listdir(above)
        except (FileNotFoundError, NotADirectoryError):
            return []
        folders = [above / name for name in names if re.fullmatch(r"step-\d{8,}", name)]
        return sorted((folder for folder in folders if not stat.S_ISREG(folder.lstat().st_mode)), key=step_of)


def best_in(progress: Mapping[str, Any]) -> Evaluated | None:
    """The best evaluation that a `state.json` knows, in the words of today or of 0.1."""
    if "best" in progress:
        return Evaluated(**progress["best"]) if progress["best"] else None
    step = progress.get("best_step")
    return None if step is None else Evaluated(progress["best_bits_per_byte"], step)


def read_progress(folder: Path) -> dict[str, Any]:
    """The content of `state.json`."""
    with store.reading(folder / STATE):
        return json.loads((folder / STATE).read_text(encoding="utf-8"))
