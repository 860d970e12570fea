"""The runs below a folder: where each comes from, how far it is, what it came to. No torch is needed to look."""

import json
import os
import tomllib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from thetahat.core import store
from thetahat.core.errors import ConfigError, ModelError
from thetahat.core.plain import fields_as_json
from thetahat.run.folder.files import CHECKPOINTS, CONFIG, STATE, all_checkpoints, best_in, read_progress
from thetahat.run.folder.moved import find_checkpoint_again, run_of, shown
from thetahat.run.log.metrics import METRICS, VALUES

Standing = Literal["finished", "running", "paused", "damaged", "not begun"]
Unit = Literal["bits/byte", "nats/label"]
TAIL = 2**16  # bytes of a log in which its last line is
UNITS: dict[str, Unit] = dict(zip(VALUES, ("bits/byte", "nats/label"), strict=True))


@dataclass(frozen=True, slots=True)
class ListedRun:
    """What can be read of a run without loading it."""

    run: str  # its folder
    state: Standing
    step: int  # the newest that was logged, or saved
    num_steps: int | None  # None: not known before the data is read
    held_out: float | None  # the value of its last evaluation
    unit: Unit  # of the two values
    best: float | None  # of a checkpoint, those of the parent up to the branch included
    best_step: int | None
    parent: str | None  # RUN@STEP that it was branched from
    base: str | None  # the model that it started from
    changed: float  # when the training wrote to it, in seconds since 1970
    num_bytes: int  # on disk, reports and whatever else lies in it included
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
    name, held_out = _last_value(folder / METRICS)
    best = best_in(progress)
    return ListedRun(
        run=shown(folder.absolute()),
        state=standing,
        step=step,
        num_steps=progress.get("num_steps"),
        held_out=held_out,
        unit=UNITS[name],
        best=best and best.value,
        best_step=best and best.step,
        parent=_parent(config.get("parent"), folder),
        base=config.get("base"),
        changed=_changed(folder, checkpoints),
        num_bytes=_on_disk(folder),
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


def _last_value(log: Path) -> tuple[str, float | None]:
    """The name and the value of the last evaluation in a log, which is searched from its end."""
    try:
        text = log.read_bytes()
    except OSError:
        text = b""
    name = max(VALUES, key=lambda one: text.rfind(_key(one)))
    before, _, behind = text.rpartition(_key(name))
    try:
        return name, float(behind.split(b",", 1)[0].split(b"}", 1)[0]) if before else None
    except ValueError:
        return name, None


def _key(name: str) -> bytes:
    return f'"{name}": '.encode()


def _changed(folder: Path, checkpoints: Sequence[Path]) -> float:
    """When the newest of what a training writes was written: a report in the folder is none of it."""
    places = [folder / CONFIG, folder / METRICS, folder / CHECKPOINTS, *(one / STATE for one in checkpoints)]
    times = [0.0]
    for place in places:
        with suppress(OSError):
            times.append(place.lstat().st_mtime)
    return max(times)


def _on_disk(folder: Path) -> int:
    """The bytes of all files below a folder."""
    num_bytes = 0
    for above, _, names in os.walk(folder):
        for name in names:
            try:
                num_bytes += os.lstat(os.path.join(above, name)).st_size
            except OSError:  # a run that goes on deletes files
                continue
    return num_bytes
