"""Finds the checkpoint of a MODEL argument: a run folder (its latest), RUN@best, RUN@500, a folder, or an average."""

import os
import re
from collections.abc import Container
from contextlib import suppress
from pathlib import Path
from shlex import quote

from thetahat.core import store
from thetahat.core.errors import ModelError
from thetahat.run.config import ParentConfig, RunConfig, differences
from thetahat.run.folder.absent import KINDS, no_model
from thetahat.run.folder.checkpoint import Rejected, best_of, find_fault
from thetahat.run.folder.config import read_config
from thetahat.run.folder.files import (
    AVERAGE,
    CHECKPOINTS,
    CONFIG,
    MODEL,
    OPTIMIZER,
    FilesOf,
    all_checkpoints,
    folder_of,
    is_there,
    step_of,
)
from thetahat.run.folder.moved import find_checkpoint_again
from thetahat.run.folder.weights import Weights


def find_checkpoint(name: str, *, with_optimizer: bool = False, deep: bool = True) -> Path:
    """The checkpoint folder of a MODEL argument, verified; of the optimizer's state only the size, by default.

    Without `deep` the parameters are not read either: of them, too, only the size is compared. Raises ModelError for
    an average, which is no checkpoint.
    """
    run, which = _parts(name)
    if which.startswith("mean:") or which.endswith("ema"):
        what = f"{name} is an average of parameters, without the state of a run"
        raise ModelError(what, allowed="RUN, RUN@best, RUN@STEP", cure=f"base={quote(name)}, to start from it")
    return _verified(Path(run), which, _ALL if not deep else () if with_optimizer else _SHALLOW)


def find_weights(name: str, *, deep: bool = True) -> Weights:
    """The weights of a MODEL argument: also RUN@ema, RUN@STEP:ema, RUN@best:ema, and RUN@mean:K of the last K."""
    run, which = _parts(name)
    if which.startswith("mean:"):
        return _mean(Path(run), which.removeprefix("mean:"), _SHALLOW if deep else _ALL)
    step, _, kind = which.rpartition(":")
    if kind != "ema":
        return Weights((find_checkpoint(name, deep=deep),))
    folder = _verified(Path(run), step or "latest", FilesOf((OPTIMIZER, MODEL)) if deep else _ALL)
    if not is_there(folder / AVERAGE):
        raise ModelError(
            f"{name}: the run keeps no moving average of its parameters",
            cure="optimization.ema=0.999 when it is trained, or thetahat train --branch RUN optimization.ema=0.999 ...",
        )
    return Weights((folder,), is_moving=True)


_SHALLOW = FilesOf((OPTIMIZER, AVERAGE))  # what is not read where a model is asked for
_ALL = FilesOf((MODEL, OPTIMIZER, AVERAGE))


def _parts(name: str) -> tuple[str, str]:
    """The run, and what of it is meant."""
    run, at, which = name.rpartition("@")
    return (name, "latest") if not at or os.path.lexists(name) else (run, which)


def _verified(run: Path, which: str, shallow: Container[str]) -> Path:
    with store.reading(run):
        folder = _named(run, which)
        if folder is None:
            return _newest(run, shallow)
        store.verify(folder, shallow=shallow)
        return folder


def _mean(run: Path, count: str, shallow: Container[str]) -> Weights:
    """The last checkpoints behind step 0; one that is damaged is an error."""
    if not (count.isascii() and count.isdigit() and int(count) > 1):
        raise ModelError(f"{run}@mean:{count}", allowed="a number of checkpoints, 2 or more", cure=f"{run}@mean:2")
    if not (run / CHECKPOINTS).is_dir():
        raise no_model(run)
    folders = [folder for folder in all_checkpoints(run) if step_of(folder) > 0]
    if len(folders) < int(count):
        raise ModelError(
            f"{run}@mean:{count}: the run has {len(folders)} trained checkpoints",
            cure=f"{run}@mean:{len(folders)}" if len(folders) > 1 else f"checkpoint.every=N checkpoint.keep={count}",
        )
    for folder in folders[-int(count) :]:
        store.verify(folder, shallow=shallow)
    return Weights(tuple(folders[-int(count) :]))


def find_parent(parent: ParentConfig, folder: Path) -> Path:
    """The checkpoint that a run in `folder` was branched from, where it lies now."""
    found = find_checkpoint_again(parent.run, parent.step, parent.digest, folder)
    if found is None:
        raise ModelError(
            f"{parent.run}@{parent.step}, which this run is a branch of, is not there, nor beside {folder}",
            cure=f"thetahat train --branch RUN@{parent.step}, where that run lies now, with the same settings",
        )
    return found


def _named(run: Path, which: str) -> Path | None:
    """The folder itself if it is a checkpoint, else the one that `which` names; None for the latest."""
    if (run / MODEL).exists() or (run / store.MANIFEST).exists():
        return run
    if not run.is_dir() or not (run / "checkpoints").is_dir():
        raise no_model(run)
    if which == "latest":
        return None
    folder = folder_of(run, int(which)) if which.isascii() and which.isdigit() else _pointed(run, which)
    if folder is None or not folder.is_dir():
        there = ["latest", *(["best"] if _pointed(run, "best") else []), *map(str, map(step_of, all_checkpoints(run)))]
        is_scored = folder is not None or which != "best"
        why = "" if is_scored else " yet: what is held out was not scored"
        raise ModelError(
            f"{run}@{which}: there is no such checkpoint{why}",
            allowed=f"{run}@ one of: {', '.join(there)}",
            cure=_of_parent(run, step_of(folder)) if folder is not None and (run / CONFIG).is_file() else "",
        )
    return folder


def _of_parent(run: Path, step: int) -> str:
    """The name of a checkpoint from before a run was branched; empty where it is of no parent."""
    parent = read_config(run).parent
    return f"{quote(f'{parent.run}@{step}')}, of its parent" if parent and step < parent.step else ""


def _newest(run: Path, shallow: Container[str]) -> Path:
    """The newest checkpoint; if it cannot be used, a ModelError names an older one, which is never taken silently."""
    if not (checkpoints := all_checkpoints(run)):
        raise ModelError(f"{run} has no checkpoint that can be used (none was saved)", allowed=KINDS)
    *older, newest = checkpoints
    if not (run / CONFIG).exists():
        cure = f"copy it back: cp {quote(str(newest / CONFIG))} {quote(str(run))}/"
        raise ModelError(f"{run / CONFIG} is gone, which says whose checkpoints these are", cure=cure)
    config = read_config(run)
    try:
        fault = find_fault(newest, config, shallow=shallow)
    except ModelError as error:
        cure = " or ".join(["the same command when it can be read", *_whole_ones(run, older, config)])
        raise ModelError(str(error).splitlines()[0], cure=cure) from error
    if fault and fault.kind == "misplaced" and (changed := differences(config, read_config(newest))):
        raise ModelError(
            f"{run / CONFIG} was edited since {newest.name} was trained with it: {'; '.join(changed)}",
            cure=f"copy it back: cp {quote(str(newest / CONFIG))} {quote(str(run))}/",
        )
    if fault:
        raise _cannot_be_used(run, fault, _whole_ones(run, older, config))
    return newest


def _cannot_be_used(run: Path, fault: Rejected, names: list[str]) -> ModelError:
    train = f"thetahat train {quote(str(run / CONFIG))} --out {quote(str(run))}"
    goes_on = f"; {train} sets it aside and goes on from the newest of these"
    return ModelError(
        f"{run} has no newest checkpoint that can be used: {fault.folder.name} is {fault.kind}: {fault.reason}",
        cure=f"{' or '.join(names)}{goes_on}" if names else "a copy of it: no older checkpoint is whole",
    )


def _whole_ones(run: Path, older: list[Path], config: RunConfig) -> list[str]:
    """The names RUN@STEP of the older checkpoints that are whole, newest first."""
    names: list[str] = []
    for folder in reversed(older):
        with suppress(ModelError):
            if find_fault(folder, config, shallow=_SHALLOW) is None:
                names.append(quote(f"{run}@{step_of(folder)}"))
    return names


def _pointed(run: Path, which: str) -> Path | None:
    """The folder that `latest` or `best` names; if that file is gone, the newest state knows the best."""
    pointer = run / "checkpoints" / which
    name = pointer.read_text(encoding="utf-8", errors="replace").strip() if pointer.is_file() else ""
    if which not in {"latest", "best"}:
        return None
    if re.fullmatch(r"step-\d{8,}", name):
        return pointer.parent / name
    checkpoints = all_checkpoints(run)
    best = best_of(run, checkpoints[-1]) if which == "best" and checkpoints else None
    return None if best is None else folder_of(run, best.step)
