"""Checkpoints: new folders with the digest of every file, published by rename, verified on load; no pickle."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from thetahat.core import store
from thetahat.core.config import from_toml, to_toml
from thetahat.core.errors import ConfigError, ModelError
from thetahat.data.tokens.tokenizer import Tokenizer
from thetahat.model.build import LanguageModel
from thetahat.run.config import RunConfig, differences, digest
from thetahat.run.log.metrics import METRICS, held_out_bits
from thetahat.run.state import State, better

MODEL, OPTIMIZER, STATE = "model.safetensors", "optimizer.safetensors", "state.json"
CONFIG, TOKENIZER = "config.toml", "tokenizer.json"


@dataclass(frozen=True, slots=True)
class Rejected:
    """A checkpoint that was passed over, and why."""

    folder: Path
    reason: str


def folder_of(run: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return run / "checkpoints" / f"step-{step:08d}"


def step_of(folder: Path) -> int:
    """The number in a checkpoint's name."""
    return int(folder.name.removeprefix("step-"))


def save(state: State, run: Path, tokenizer: Tokenizer, beside: Mapping[str, Any]) -> Path:
    """Publishes the state as a new folder; `beside` is what else the loop wants to find again.

    A folder of the same step that is there already was rejected on resume, or the loop would have begun after it.
    """
    target = folder_of(run, state.step)
    if target.exists():
        store.remove(target)
    with store.publishing(target) as folder:
        save_parameters(state.model, state.config, folder)
        save_file(_contiguous(state.optimizer.state()), folder / OPTIMIZER)
        progress = {
            "step": state.step,
            "tokens": state.tokens,
            "seconds": state.seconds,
            "num_steps": state.num_steps,
            "best_bits_per_byte": state.best_bits_per_byte,
            "best_step": state.best_step,
            "config": digest(state.config),
            "torch": torch.__version__,
            **beside,
        }
        store.write_json(folder / STATE, progress)
        store.write_text(folder / CONFIG, to_toml(state.config))
        store.write_text(folder / TOKENIZER, tokenizer.to_json())
    return target


def settle(run: Path, newest: Path, keep: int) -> None:
    """Brings everything else in line with the newest whole checkpoint: `latest`, `best`, and what may be deleted now.

    Done after each save, and again on resume, since a kill may have come between the two.
    """
    tokenizer = (newest / TOKENIZER).read_text(encoding="utf-8")
    _, best_step = best_of(run, newest)
    best = folder_of(run, best_step) if best_step is not None else None
    _write_if_other(run / TOKENIZER, tokenizer)
    _point(newest.with_name("latest"), newest)
    _point(newest.with_name("best"), best)
    # what is newer is damaged, and protects nothing
    older = [folder for folder in all_checkpoints(run) if step_of(folder) <= step_of(newest)]
    for folder in older[:-keep]:
        if folder != best:
            store.remove(folder)


def best_of(run: Path, newest: Path) -> tuple[float | None, int | None]:
    """The fewest held-out bits per byte of all checkpoints up to the newest, and the step of the one that has them.

    The newest knows of those before it, and of itself where it was saved after its evaluation. An evaluation that was
    broken off is made up for by a later start; then only the log has it.
    """
    progress, config = read_progress(newest), read_config(newest)
    step = progress["step"]
    bits = held_out_bits(run / METRICS, step) if config.watch.saves(step, progress["num_steps"]) else None
    return better((progress["best_bits_per_byte"], progress["best_step"]), bits, step)


def _point(pointer: Path, target: Path | None) -> None:
    if target is None or not target.is_dir():
        pointer.unlink(missing_ok=True)
    else:
        _write_if_other(pointer, target.name)


def _write_if_other(path: Path, text: str) -> None:
    if not path.is_file() or path.read_bytes() != text.encode():
        store.write_text(path, text)


def all_checkpoints(run: Path) -> list[Path]:
    """Published checkpoints, oldest first; a copy under another name is the user's own."""
    folders = (run / "checkpoints").glob("step-*")
    return sorted((folder for folder in folders if re.fullmatch(r"step-\d{8,}", folder.name)), key=step_of)


def newest_verified(run: Path, config: RunConfig) -> tuple[Path | None, list[Rejected]]:
    """The newest checkpoint that is whole and of this config, and the newer ones that are not."""
    rejected: list[Rejected] = []
    for folder in reversed(all_checkpoints(run)):
        try:
            store.verify(folder)
            _check_owner(folder, config)
        except (ModelError, ConfigError) as error:
            rejected.append(Rejected(folder, str(error).splitlines()[0]))
            continue
        return folder, rejected
    return None, rejected


def _check_owner(folder: Path, config: RunConfig) -> None:
    """Whole is not enough: it must be what its name says, and of this config."""
    if changed := differences(config, read_config(folder)):
        raise ModelError(f"it belongs to another config ({'; '.join(changed[:3])})")
    if (step := read_progress(folder)["step"]) != step_of(folder):
        raise ModelError(f"it holds step {step}")


def restore(state: State, folder: Path) -> None:
    """Puts a verified checkpoint's bits into a fresh state."""
    load_parameters(state.model, folder, state.config)
    state.optimizer.load_state(load_tensors(folder / OPTIMIZER))
    progress = read_progress(folder)
    state.step, state.tokens, state.seconds = progress["step"], progress["tokens"], progress["seconds"]


def read_progress(folder: Path) -> dict[str, Any]:
    """What `state.json` says."""
    return json.loads((folder / STATE).read_text(encoding="utf-8"))


def read_config(folder: Path) -> RunConfig:
    """The config with which a checkpoint or a run was made."""
    path = folder / CONFIG
    try:
        return from_toml(path.read_text(encoding="utf-8"), RunConfig, name=str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error


def load_parameters(model: LanguageModel, folder: Path, config: RunConfig) -> None:
    """Copies saved parameters into a model of the same names and shapes; of an adapter these are the trained ones."""
    copy_parameters(model, load_tensors(folder / MODEL), config, str(folder / MODEL))


@torch.no_grad()
def copy_parameters(model: LanguageModel, saved: Mapping[str, Tensor], config: RunConfig, where: str) -> None:
    """The same with parameters in memory; errors name `where` they are from."""
    wanted = _saved(model, config)
    if odd := sorted(set(saved) ^ set(wanted)):
        raise ModelError(f"{where} does not fit the model: {odd[0]} is in one of them only")
    for name, parameter in wanted.items():
        if saved[name].shape != parameter.shape:
            raise ModelError(f"{where}: {name} is {list(saved[name].shape)}, not {list(parameter.shape)}")
        parameter.copy_(saved[name])


def save_parameters(model: LanguageModel, config: RunConfig, folder: Path) -> None:
    """Writes what a checkpoint holds of a model."""
    save_file(_contiguous(_saved(model, config)), folder / MODEL)


def _saved(model: LanguageModel, config: RunConfig) -> dict[str, Tensor]:
    """What a checkpoint holds: every parameter, or, of an adapter, what is not the base's."""
    named: dict[str, Tensor] = dict(model.named_parameters())
    if config.adapter is None:
        return named
    return {name: value for name, value in named.items() if value.requires_grad}


def load_tensors(path: Path) -> dict[str, Tensor]:
    """What a safetensors file holds; a file that cannot be read is a ModelError."""
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from error


def _contiguous(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
