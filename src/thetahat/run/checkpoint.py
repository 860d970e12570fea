"""Checkpoints: new folders with the digest of every file, published by rename, verified on load; no pickle."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from thetahat.core import store
from thetahat.core.config import differences, digest, from_toml, to_toml
from thetahat.core.errors import ConfigError, ModelError
from thetahat.data.tokenizer import Tokenizer, load_tokenizer
from thetahat.model.decoder import Decoder
from thetahat.run.config import RunConfig
from thetahat.run.state import State, build_model

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


def save(state: State, run: Path, tokenizer: Tokenizer, metrics_bytes: int) -> Path:
    """Publishes the state as a new folder; an existing one of the same step is replaced only if it is damaged."""
    target = folder_of(run, state.step)
    if target.exists():
        shutil.rmtree(target)
    with store.publishing(target) as folder:
        save_file(_contiguous(dict(state.model.named_parameters())), folder / MODEL)
        save_file(_contiguous(state.optimizer.state()), folder / OPTIMIZER)
        progress = {
            "step": state.step,
            "tokens": state.tokens,
            "seconds": state.seconds,
            "best_bits_per_byte": state.best_bits_per_byte,
            "metrics_bytes": metrics_bytes,
            "config": digest(state.config),
            "torch": torch.__version__,
        }
        store.write_json(folder / STATE, progress)
        store.write_text(folder / CONFIG, to_toml(state.config))
        store.write_text(folder / TOKENIZER, tokenizer.to_json())
    store.write_text(run / "checkpoints" / "latest", target.name)
    return target


def prune(run: Path, keep: int) -> None:
    """Deletes all but the last `keep` checkpoints and the best."""
    pointer = run / "checkpoints" / "best"
    best = pointer.read_text(encoding="utf-8") if pointer.is_file() else ""
    for folder in all_checkpoints(run)[:-keep]:
        if folder.name != best:
            store.remove(folder)


def all_checkpoints(run: Path) -> list[Path]:
    """Published checkpoints, oldest first."""
    return sorted((run / "checkpoints").glob("step-*"))


def newest_verified(run: Path, config: RunConfig) -> tuple[Path | None, list[Rejected]]:
    """The newest checkpoint that is whole and of this config, and the newer ones that are not."""
    rejected: list[Rejected] = []
    for folder in reversed(all_checkpoints(run)):
        try:
            store.verify(folder)
            theirs = read_config(folder)
        except (ModelError, ConfigError) as error:
            rejected.append(Rejected(folder, str(error).splitlines()[0]))
            continue
        if changed := differences(config, theirs):
            rejected.append(Rejected(folder, f"belongs to another config ({'; '.join(changed[:3])})"))
            continue
        return folder, rejected
    return None, rejected


def restore(state: State, folder: Path) -> int:
    """Puts a verified checkpoint's bits into a fresh state; returns the length of metrics.jsonl at that time."""
    load_parameters(state.model, folder)
    state.optimizer.load_state(_load(folder / OPTIMIZER))
    progress = read_progress(folder)
    state.step, state.tokens = progress["step"], progress["tokens"]
    state.seconds, state.best_bits_per_byte = progress["seconds"], progress["best_bits_per_byte"]
    return progress["metrics_bytes"]


def read_progress(folder: Path) -> dict[str, Any]:
    """What `state.json` says."""
    return json.loads((folder / STATE).read_text(encoding="utf-8"))


def read_config(folder: Path) -> RunConfig:
    """The config with which a checkpoint or a run was made."""
    return from_toml((folder / CONFIG).read_text(encoding="utf-8"), RunConfig, name=str(folder / CONFIG))


def load_model(folder: Path, config: RunConfig, device: torch.device) -> tuple[Decoder, Tokenizer]:
    """The model and the tokenizer of a verified checkpoint."""
    store.verify(folder)
    tokenizer = load_tokenizer(folder / TOKENIZER)
    model = build_model(config, tokenizer.vocab_size, device)
    load_parameters(model, folder)
    return model.eval(), tokenizer


@torch.no_grad()
def load_parameters(model: Decoder, folder: Path) -> None:
    """Copies saved parameters into a model of the same names and shapes."""
    saved = _load(folder / MODEL)
    wanted = dict(model.named_parameters())
    if odd := sorted(set(saved) ^ set(wanted)):
        raise ModelError(f"{folder / MODEL} does not fit the model: {odd[0]} is in one of them only")
    for name, parameter in wanted.items():
        if saved[name].shape != parameter.shape:
            raise ModelError(f"{folder / MODEL}: {name} is {list(saved[name].shape)}, not {list(parameter.shape)}")
        parameter.copy_(saved[name])


def _load(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from error


def _contiguous(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
