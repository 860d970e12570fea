"""Low-rank adaptation: a frozen matrix, and a trained product of two thin ones beside it."""

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import linear

from thetahat.core.errors import ConfigError
from thetahat.core.random import generator
from thetahat.model.adapters.config import LoRAConfig
from thetahat.model.adapters.rows import merge_new_rows
from thetahat.model.build import LanguageModel
from thetahat.model.law import BIAS, MATRIX, Constant, Law


@final
class LowRank(nn.Module):
    r"""$W x + \tfrac{\alpha}{r} B A x$, $W$ frozen, $A \in \mathbb{R}^{r \times C}$, $B \in \mathbb{R}^{R \times r}$.

    B begins at 0, so the adapted model begins as the one that it adapts. Hu et al., LoRA, 2021 (arXiv 2106.09685).
    """

    laws: ClassVar[Mapping[str, Law]] = {
        "base.weight": MATRIX,
        "base.bias": BIAS,
        "lora_in": MATRIX,
        "lora_out": Law("matrices", Constant(0.0)),
    }

    def __init__(self, base: nn.Linear, config: LoRAConfig) -> None:
        super().__init__()
        self.base = base
        self.scale = config.alpha / config.rank
        self.lora_in = nn.Parameter(base.weight.new_zeros(config.rank, base.in_features))
        self.lora_out = nn.Parameter(base.weight.new_zeros(base.out_features, config.rank))

    def forward(self, x: Float[Tensor, "*axes C"]) -> Float[Tensor, "*axes R"]:
        return self.base(x) + self.scale * linear(linear(x, self.lora_in), self.lora_out)

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        r"""One matrix that does the same: $W + \tfrac{\alpha}{r} B A$, computed in float64 and rounded once."""
        self.base.weight.copy_(with_product(self.base.weight, self.lora_out, self.lora_in, self.scale))
        return self.base

    if TYPE_CHECKING:
        __call__ = forward


@torch.no_grad()
def with_product(
    weight: Float[Tensor, "R C"], lora_out: Float[Tensor, "R r"], lora_in: Float[Tensor, "r C"], scale: float
) -> Float[Tensor, "R C"]:
    r"""$W + s B A$, computed in float64 and rounded once to the dtype of W."""
    product = lora_out.double() @ lora_in.double()
    return product.mul_(scale).add_(weight).to(weight.dtype)


def adapt(model: LanguageModel, config: LoRAConfig, seed: int, num_labels: int = 0) -> None:
    """Puts a LowRank in place of each targeted matrix, and freezes everything else but a head over labels."""
    matrices = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    endings = ", ".join(sorted({f"*.{name.rpartition('.')[2]}" for name in matrices}))
    chosen = _matching("adapter.targets", config.targets, matrices, "matrix", endings)
    names = [name for name, _ in model.named_parameters()]
    also = _matching("adapter.also", config.also, names, "parameter", _beginnings(names))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in also or (num_labels > 0 and name.startswith("head.")))
    for name in (name for name in matrices if name in chosen):
        low_rank = LowRank(matrices[name], config)
        values = torch.randn(low_rank.lora_in.shape, generator=generator(seed, f"init {name}.lora_in"))
        low_rank.lora_in.data.copy_(values * matrices[name].in_features ** -0.5)
        _replace(model, name, low_rank)


def is_adapted(model: nn.Module) -> bool:
    """Whether there is a LowRank in it, so that not all of its parameters are its own."""
    return any(isinstance(module, LowRank) for module in model.modules())


def merge(model: LanguageModel) -> int:
    """Puts one matrix in place of each LowRank, adds the rows of new tokens to their tables; says of how many matrices.

    What it computes stays the same.
    """
    adapted = [(name, module) for name, module in model.named_modules() if isinstance(module, LowRank)]
    for name, module in adapted:
        _replace(model, name, module.merged())
    merge_new_rows(model)
    return len(adapted)


def freeze(model: nn.Module, patterns: tuple[str, ...]) -> None:
    """Freezes the parameters whose names match; a pattern that matches none is an error, as is freezing everything."""
    names = [name for name, _ in model.named_parameters()]
    frozen = _matching("frozen", patterns, names, "parameter", _beginnings(names))
    for name, parameter in model.named_parameters():
        if name in frozen:
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ConfigError(f"frozen={list(patterns)} leaves nothing to train")


def _matching(key: str, patterns: Iterable[str], names: Iterable[str], what: str, like: str) -> set[str]:
    """The names that a pattern matches; each must match one."""
    names, found = list(names), set[str]()
    for pattern in patterns:
        matched = [name for name in names if fnmatchcase(name, pattern)]
        if not matched:
            raise ConfigError(f"{key}={pattern!r} matches no {what} of this model", allowed=f"patterns such as {like}")
        found.update(matched)
    return found


def _beginnings(names: Iterable[str]) -> str:
    return ", ".join(sorted({name.split(".")[0] + ".*" for name in names}))


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, module)
