"""MODEL: a run folder (its latest checkpoint), RUN@best, RUN@500, or a checkpoint folder."""

import re
from dataclasses import dataclass
from logging import getLogger
from pathlib import Path

import torch
from msgspec.structs import replace

from thetahat.core import store
from thetahat.core.config import override
from thetahat.core.errors import ConfigError, ModelError
from thetahat.data.tokenizer import Tokenizer
from thetahat.model.build import LanguageModel
from thetahat.run.checkpoint import (
    CONFIG,
    MODEL,
    all_checkpoints,
    folder_of,
    load_model,
    newest_verified,
    read_config,
    read_progress,
)
from thetahat.run.config import RunConfig, resolve, set_up

_ASKING = ("device", "dtype", "threads", "deterministic", "seed", "data.split_on")
_KINDS = "a run folder, RUN@best, RUN@STEP, or a checkpoint folder"
logger = getLogger("thetahat")


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model ready to be asked."""

    model: LanguageModel
    tokenizer: Tokenizer
    config: RunConfig
    folder: Path
    device: torch.device
    labels: tuple[str, ...] = ()  # of a classification, in the order of the head


def load(name: str, overrides: tuple[str, ...] = ()) -> Loaded:
    """The model of this name; `overrides` may change how it runs (device, dtype, threads), not what it is."""
    folder = find_checkpoint(name)
    store.verify(folder)
    saved = read_config(folder)
    config = override(saved, [_for_asking(pair) for pair in overrides])
    if (
        config.device == "cuda"
        and not torch.cuda.is_available()
        and not any(o.startswith("device=") for o in overrides)
    ):
        config = replace(config, device="cpu")  # trained on a GPU, asked on a machine without
    config = resolve(config)
    device = set_up(config)
    model, tokenizer = load_model(folder, config, device)
    return Loaded(model, tokenizer, config, folder, device, tuple(read_progress(folder)["labels"]))


def _for_asking(pair: str) -> str:
    """The KEY=VALUE, if it changes how a model is asked; what would be ignored is refused."""
    key, _, value = pair.partition("=")
    if key == "batch_size":
        return f"evaluation.batch_size={value}"
    if key not in _ASKING and not key.startswith("evaluation."):
        raise ConfigError(
            f"{key} does not change how a trained model is asked",
            allowed=f"{', '.join(_ASKING)}, batch_size, evaluation.*",
        )
    return pair


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
    if not folder.is_dir():
        there = ", ".join(str(int(each.name.removeprefix("step-"))) for each in all_checkpoints(path))
        raise ModelError(f"{name}: there is no such checkpoint", allowed=f"{run}@ one of: latest, best, {there}")
    return folder


def _newest(path: Path) -> Path:
    newest, rejected = newest_verified(path, read_config(path)) if (path / CONFIG).exists() else (None, [])
    if newest is None:
        why = "; ".join(f"{one.folder.name}: {one.reason}" for one in rejected) or "none was saved"
        raise ModelError(f"{path} has no checkpoint that can be used ({why})", allowed=_KINDS)
    for one in rejected:
        logger.warning("checkpoint %s is not used: %s", one.folder.name, one.reason)
    return newest


def _pointed(path: Path, which: str) -> Path:
    pointer = path / "checkpoints" / which
    name = pointer.read_text(encoding="utf-8", errors="replace").strip() if pointer.is_file() else ""
    if which not in {"latest", "best"} or not re.fullmatch(r"step-\d{8,}", name):
        raise ModelError(f"{path}@{which}: there is no such checkpoint", allowed=_KINDS)
    return pointer.parent / name
