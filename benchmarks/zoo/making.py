"""What failures are made with: a healthy run, and ways to change its state, gradients, batches and checkpoints."""

import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.zoo import data
from benchmarks.zoo.case import Case, Inject
from thetahat.core import store
from thetahat.core.batch import Batch
from thetahat.objective import factorization
from thetahat.optimization.clip import clip_and_measure
from thetahat.run.state import State

STEPS = 160
RATE = 0.003
SMALL = [
    *("quickstart", "device=cpu", "threads=1", f"max_steps={STEPS}", "batch_size=8", "data.context=64"),
    *("data.vocab_size=320", "data.held_out=none", "data.over_long=split", "model.num_layers=2", "model.width=32"),
    *("model.num_heads=2", "model.num_kv_heads=1", "model.head_width=16", "model.inner_width=48", "prompt="),
    *("evaluation.every=0", "checkpoint.every=0", "diagnosis.every=10", "ledger.every=1"),
]
RULES = ("matrices", "embeddings", "vectors")


def adamw(rate: float, **more: Any) -> list[str]:
    """One rule for all parameters."""
    rule = {"kind": "adamw", "learning_rate": rate, **more}
    rules = {name: rule if name == "matrices" else {key: rule[key] for key in rule if key != "kind"} for name in RULES}
    return [f"optimization.{name}.{key}={value}" for name, keys in rules.items() for key, value in keys.items()]


def plain(seed: int, folder: Path, *keys: str, count: int = 400) -> Case:
    """A healthy run on speeches."""
    path = data.write(folder / "train.jsonl", data.speeches(seed, count))
    return Case([*SMALL, f"data.train={path}", f"seed={seed}", *keys])


def at(step: int, do: Callable[[State], None], last: int | None = None) -> Inject:
    """Does something before this step, or before each up to the last one."""

    def inject(state: State, batches: Sequence[Batch]) -> None:
        if step <= state.step + 1 <= (last or step):
            with torch.no_grad():
                do(state)

    return inject


def moment(seed: int) -> int:
    """A step in the second half of the run, where a baseline is known."""
    return random.Random(seed).randrange(STEPS // 2, STEPS - 20)


def scaled_gradient(factor: float, which: Callable[[str], bool]) -> Callable[[list[str]], Any]:
    """A clip that first scales the gradients of some parameters."""

    def clip(names: list[str], parameters: Sequence[Tensor], max_norm: float | None) -> Any:
        for name, parameter in zip(names, parameters, strict=True):
            if which(name) and parameter.grad is not None:
                parameter.grad.mul_(factor)
        return clip_and_measure(parameters, max_norm)

    return clip


def with_gradients(case: Case, factor: float, which: Callable[[str], bool], first: int, last: int) -> Case:
    """Scales the gradients of some parameters in some steps."""
    now: dict[str, Any] = {}

    def look(state: State, batches: Sequence[Batch]) -> None:
        now["step"], now["names"] = state.step + 1, [name for name, _ in state.model.named_parameters()]

    def clip(parameters: Sequence[Tensor], max_norm: float | None) -> Any:
        scale = factor if first <= now["step"] <= last else 1.0
        return scaled_gradient(scale, which)(now["names"], parameters, max_norm)

    case.inject, case.patches, case.since = look, {"thetahat.run.step.clip_and_measure": clip}, first
    return case


def changed_batches(case: Case, change: Callable[[Batch], Batch]) -> Case:
    """Every batch is changed, as a faulty factorization would."""
    right = factorization.factor
    wrong = lambda *rest: change(right(*rest))  # noqa: E731
    case.patches = {f"thetahat.run.{where}.factor": wrong for where in ("prepare", "diagnosis.preflight")}
    return case


def seeing(batch: Batch, **changes: Any) -> Batch:
    """The same rows, whose visibility says something else."""
    seen = replace(batch.inputs.visibility, is_plain=False, lengths=None, **changes)
    return replace(batch, inputs=replace(batch.inputs, visibility=seen))


def tampered(seed: int, folder: Path, file: str, which: str) -> Case:
    """The last checkpoint is gone, the one before it has another tensor, and its manifest agrees."""
    from safetensors.torch import load_file, save_file

    case = plain(seed, folder, "checkpoint.every=20", "checkpoint.keep=9", "max_steps=60")

    def damage(run: Path) -> None:
        shutil.rmtree(run / "checkpoints" / "step-00000060")
        path = run / "checkpoints" / "step-00000040" / file
        tensors = load_file(path)
        names = [name for name in tensors if which in name]
        tensors[names[seed % len(names)]].mul_(2.0)
        save_file(tensors, path)
        (path.parent / store.MANIFEST).unlink()
        store._seal(path.parent, {})

    case.again, case.since = damage, 41
    return case
