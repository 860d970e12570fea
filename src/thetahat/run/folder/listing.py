"""The runs below a folder: where each comes from, how far it is, what it came to. No torch is needed to look."""

import json
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from thetahat.core import store
from thetahat.core.errors import ConfigError, ModelError
from thetahat.core.plain import fields_as_json
from thetahat.run.folder.files import CHECKPOINTS, CONFIG, all_checkpoints, read_progress
from thetahat.run.folder.moved import find_checkpoint_again, run_of, shown
from thetahat.run.log.metrics import HELD_OUT, METRICS

Standing = Literal["finished", "running", "paused", "damaged", "not begun"]
TAIL = 2**16  # bytes of a log in which its last line is
BITS = f'"{HELD_OUT}bits_per_byte": '.encode()


@dataclass(frozen=True, slots=True)
class ListedRun:
    """What can be read of a run without loading it."""

    run: str  # its folder
    state: Standing
    step: int  # the newest that was logged, or saved
    num_steps: int | None  # None: not known before the data is read
    bits_per_byte: float | None  # of what is held out, at its last evaluation
    best_bits_per_byte: float | None  # of a checkpoint, those of the parent up to the branch included
    best_step: int | None
    parent: str | None  # RUN@STEP that it was branched from
    base: str | None  # the model that it started from
    changed: float  # when it was written to, in seconds since 1970
    num_bytes: int  # on disk
    fault: str = ""  # of a damaged one

    def to_dict(self) -> dict[str, Any]:
        """What `--json` prints."""
        return fields_as_json(self)


def list_runs(folder: Path) -> list[ListedRun]:
    """The runs in a folder, or the one that it is, the one that was written to last at the end."""
    if not folder.is_dir():
        raise ConfigError(f"there is no folder {folder}", allowed="a folder of runs", cure="thetahat runs DIR")
    folders = [folder] if _is_run(folder) else [below for below in folder.iterdir() if _is_run(below)]
    return sorted(map(_listed, folders), key=lambda run: (run.changed, run.run))


def _is_run(folder: Path) -> bool:
    return (folder / CHECKPOINTS).is_dir()


def _listed(folder: Path) -> ListedRun:
    config, fault = _config(folder)
    progress: Mapping[str, Any] = {}
    checkpoints = all_checkpoints(folder)
    try:
        if checkpoints:
            store.verify(checkpoints[-1], deep=False)
            progress = read_progress(checkpoints[-1])
    except (ModelError, ValueError) as error:
        fault = fault or str(error).splitlines()[0]
    step = max(progress.get("step", 0), _last_step(folder / METRICS))
    is_held = store.is_held(folder)
    standing: Standing = "paused"
    if fault:
        standing = "damaged"
    elif is_held:
        standing = "running"
    elif not checkpoints:
        standing = "not begun"
    elif progress["step"] == progress["num_steps"]:
        standing = "finished"
    num_bytes, changed = _on_disk(folder)
    return ListedRun(
        run=shown(folder.absolute()),
        state=standing,
        step=step,
        num_steps=progress.get("num_steps"),
        bits_per_byte=_last_bits(folder / METRICS),
        best_bits_per_byte=progress.get("best_bits_per_byte"),
        best_step=progress.get("best_step"),
        parent=_parent(config.get("parent"), folder),
        base=config.get("base"),
        changed=changed,
        num_bytes=num_bytes,
        fault=fault,
    )


def _config(folder: Path) -> tuple[Mapping[str, Any], str]:
    """The config, as plain values, and what is wrong with its file."""
    try:
        return tomllib.loads((folder / CONFIG).read_text(encoding="utf-8")), ""
    except FileNotFoundError:
        return {}, f"{CONFIG} is gone" if all_checkpoints(folder) else ""
    except (OSError, ValueError) as error:
        return {}, f"{CONFIG} cannot be read: {error}"


def _parent(parent: Any, folder: Path) -> str | None:
    """RUN@STEP, where it lies now."""
    match parent:
        case {"run": str(run), "step": int(step), "digest": str(digest)}:
            place = Path(run)
        case _:
            return None
    if not place.exists() and (found := find_checkpoint_again(run, step, digest, folder)):
        place = run_of(found)
    return f"{shown(place.absolute())}@{step}"


def _last_step(log: Path) -> int:
    """The step of the last whole line."""
    for line in reversed(_tail(log).splitlines()):
        try:
            return int(json.loads(line)["step"])
        except (ValueError, KeyError, TypeError):
            continue
    return 0


def _tail(log: Path) -> bytes:
    try:
        with log.open("rb") as file:
            file.seek(max(os.fstat(file.fileno()).st_size - TAIL, 0))
            return file.read()
    except OSError:
        return b""


def _last_bits(log: Path) -> float | None:
    """Of the last evaluation in a log, which is searched from its end."""
    try:
        text = log.read_bytes()
    except OSError:
        return None
    at = text.rfind(BITS)
    try:
        return float(text[at + len(BITS) :].split(b",", 1)[0].split(b"}", 1)[0]) if at >= 0 else None
    except ValueError:
        return None


def _on_disk(folder: Path) -> tuple[int, float]:
    """The bytes of all files below a folder, and when the newest of them was written."""
    num_bytes, changed = 0, 0.0
    for above, _, names in os.walk(folder):
        for name in names:
            try:
                state = os.lstat(os.path.join(above, name))
            except OSError:  # a run that goes on deletes files
                continue
            num_bytes += state.st_size
            changed = max(changed, state.st_mtime)
    return num_bytes, changed
