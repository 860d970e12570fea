"""What lies where in a run folder; no torch is needed to look."""

import json
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from thetahat.core import store
from thetahat.ledger.evaluated import Evaluated

MODEL, OPTIMIZER, STATE = "model.safetensors", "optimizer.safetensors", "state.json"
AVERAGE = "average.safetensors"
CONFIG, CARD = "config.toml", "card.toml"
CHECKPOINTS = "checkpoints"


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
