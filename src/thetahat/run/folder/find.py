"""MODEL: a run folder (its latest checkpoint), RUN@best, RUN@500, or a checkpoint folder."""

import re
from logging import getLogger
from pathlib import Path

from thetahat.core import store
from thetahat.core.errors import ModelError
from thetahat.run.folder.checkpoint import CONFIG, MODEL, all_checkpoints, folder_of, newest_verified, read_config

_KINDS = "a run folder, RUN@best, RUN@STEP, or a checkpoint folder"
logger = getLogger("thetahat")


def find_checkpoint(name: str) -> Path:
    """The checkpoint folder that a MODEL argument means."""
    run, at, which = name.rpartition("@")
    if not at or Path(name).exists():
        run, which = name, "latest"
    path = Path(run)
    if (path / MODEL).exists() or (path / store.MANIFEST).exists():
        return path
    if not path.is_dir() or not (path / "checkpoints").is_dir():
        raise ModelError(f"{run} is not a model", allowed=_KINDS, cure="thetahat train makes one, in runs/")
    if which == "latest":
        return _newest(path)
    folder = folder_of(path, int(which)) if which.isascii() and which.isdigit() else _pointed(path, which)
    if folder is None or not folder.is_dir():
        steps = [str(int(each.name.removeprefix("step-"))) for each in all_checkpoints(path)]
        there = ", ".join(["latest", *(["best"] if _pointed(path, "best") else []), *steps])
        why = " yet: what is held out was not scored" if which == "best" else ""
        raise ModelError(f"{name}: there is no such checkpoint{why}", allowed=f"{run}@ one of: {there}")
    return folder


def _newest(path: Path) -> Path:
    newest, rejected = newest_verified(path, read_config(path)) if (path / CONFIG).exists() else (None, [])
    if newest is None:
        why = "; ".join(f"{one.folder.name}: {one.reason}" for one in rejected) or "none was saved"
        raise ModelError(f"{path} has no checkpoint that can be used ({why})", allowed=_KINDS)
    for one in rejected:
        logger.warning("checkpoint %s is not used: %s", one.folder.name, one.reason)
    return newest


def _pointed(path: Path, which: str) -> Path | None:
    pointer = path / "checkpoints" / which
    name = pointer.read_text(encoding="utf-8", errors="replace").strip() if pointer.is_file() else ""
    if which not in {"latest", "best"} or not re.fullmatch(r"step-\d{8,}", name):
        return None
    return pointer.parent / name
