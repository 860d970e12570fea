"""Adapters as PEFT reads them: thin matrices by the names of the base's modules, and a config that says where."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from thetahat.core.errors import ModelError
from thetahat.core.store import write_json
from thetahat.interop.config import family_for
from thetahat.interop.family import Family
from thetahat.interop.names import Entry, entries_of
from thetahat.model.adapters.config import LoRAConfig
from thetahat.model.adapters.lora import LowRank
from thetahat.model.config import DecoderConfig, EncoderDecoderConfig, ModelConfig

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
Product = tuple[Tensor, Tensor]
"""A [r C] and B [R r] of B A."""

_PREFIX = "base_model.model."
_MERGE = "thetahat merge MODEL, or thetahat export without --adapter, which both write a whole model"


def check_adapter(model: nn.Module) -> None:
    """Raises ModelError where more than low-rank products is trained, which an adapter's files have no place for."""
    inside = {name for name, module in model.named_modules() if isinstance(module, LowRank)}
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    others = [name for name in trained if name.rpartition(".")[0] not in inside]
    if not inside:
        raise ModelError("the model has no adapter", cure="thetahat export MODEL OUT, without --adapter")
    if others:
        what = "rows of new tokens" if others[0].endswith(".new_rows") else "a whole tensor"
        raise ModelError(f"the adapter has {what} beside its products, {others[0]}, and is no LoRA alone", cure=_MERGE)


@final
@dataclass(frozen=True, slots=True)
class Trained:
    """What an adapter is of."""

    config: LoRAConfig
    base: str  # as `from_pretrained` names it
    family: str | None = None  # its model_type; None: the first that has the shape


def write_adapter(
    folder: Path, model: nn.Module, values: Mapping[str, Tensor], config: ModelConfig, trained: Trained
) -> Family:
    r"""Writes the adapter of a model whose base is a model of `config`, and returns the family whose names it has.

    The model has the shapes and may be on `meta`; `values` are those of its parameters, of which an adapter's are read.
    Where several matrices of ours are one of theirs, their products are one: $A$ are stacked, $B$ is block-diagonal,
    and rank and alpha grow alike, so that $\tfrac{\alpha}{r}$ stays.
    """
    family = family_for(config, trained.family)
    inside = {name for name, module in model.named_modules() if isinstance(module, LowRank)}
    tensors: dict[str, Tensor] = {}
    ranks: dict[str, int] = {}
    found = _entries(family, model, config)
    for entry in found:
        modules = [name.removesuffix(".weight") for name in entry.ours]
        parts = [_product_of(name, values) if name in inside else None for name in modules]
        if any(parts):
            module = entry.theirs.removesuffix(".weight")
            a, b = joined_product(entry, parts)
            tensors |= {f"{_PREFIX}{module}.lora_A.weight": a, f"{_PREFIX}{module}.lora_B.weight": b}
            ranks[module] = len(a)
    described = _described(ranks, [entry.theirs for entry in found], trained.config)
    described["fan_in_fan_out"] = any(entry.stored == "transposed" for entry in found)
    described |= {"base_model_name_or_path": trained.base, "task_type": _task(config)}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    write_json(folder / CONFIG, described)
    return family


def _entries(family: Family, model: nn.Module, config: ModelConfig) -> list[Entry]:
    """The tensors of the base, by the names that they have where nothing is adapted."""
    named = dict(model.named_parameters())
    shapes = {name.replace(".base.", "."): tuple(value.shape) for name, value in named.items() if ".lora_" not in name}
    return entries_of(family.links, shapes, config)


def joined_product(entry: Entry, parts: Sequence[Product | None]) -> Product:
    """A and B of one matrix of theirs, of those of ours that it is joined of; None: that one is not adapted."""
    a = torch.cat([part[0] for part in parts if part])
    blocks: list[Tensor] = []
    column = 0
    for part, rows in zip(parts, entry.rows, strict=True):
        block = a.new_zeros(rows, len(a))
        if part:
            rank = len(part[0])
            block[:, column : column + rank] = part[1]
            column += rank
        blocks.append(block)
    rows_first = replace(entry, stored="rows") if entry.stored == "transposed" else entry
    return a.contiguous(), rows_first.join(blocks).contiguous()


def _product_of(module: str, values: Mapping[str, Tensor]) -> Product:
    return values[f"{module}.lora_in"], values[f"{module}.lora_out"]


def _described(ranks: Mapping[str, int], tensors: Sequence[str], trained: LoRAConfig) -> dict[str, Any]:
    """The config of an adapter; ranks of single modules where they are not all the same."""
    usual = max(set(ranks.values()), key=lambda rank: list(ranks.values()).count(rank))
    alpha = trained.alpha / trained.rank
    others = {module: rank for module, rank in ranks.items() if rank != usual}
    return {
        "peft_type": "LORA",
        "r": usual,
        "lora_alpha": alpha * usual,
        "rank_pattern": others,
        "alpha_pattern": {module: alpha * rank for module, rank in others.items()},
        "target_modules": _targets(list(ranks), tensors),
        "lora_dropout": 0.0,
        "bias": "none",
        "use_rslora": False,
        "use_dora": False,
        "modules_to_save": None,
        "inference_mode": True,
    }


def _targets(adapted: Sequence[str], tensors: Sequence[str]) -> list[str]:
    """The last names of the modules where these mean no other module, else their whole names."""
    last = sorted({module.rpartition(".")[2] for module in adapted})
    meant = {name.rpartition(".")[0] for name in tensors if name.rpartition(".")[0].rpartition(".")[2] in last}
    return last if meant == set(adapted) else sorted(adapted)


def _task(config: ModelConfig) -> str | None:
    if isinstance(config, EncoderDecoderConfig):
        return "SEQ_2_SEQ_LM"
    return "CAUSAL_LM" if isinstance(config, DecoderConfig) else None
